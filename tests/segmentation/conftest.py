import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def short_collections():
    """Every dataset makes mmengine collect garbage, which takes half a second where torch is imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
