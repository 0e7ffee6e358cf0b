"""A small encoder and a folder of pictures of several sizes, with a video between them."""

import pytest
import torch
from feature_scenes import TINY
from small_checkpoints import save_input

from pe_spatial.backbones import VARIANTS, PEBackbone


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", TINY)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return PEBackbone(TINY, layers=[0, 2]).eval()


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return save_input(tmp_path_factory.mktemp("features") / "photos", pictures=6, frames=3)
