"""What the runtime does with NumPy: labels of large pictures, of which never all scores exist."""

import numpy as np
import pytest

from pe_spatial.runtime import arrays


@pytest.mark.parametrize("strip", [1, 5000, 2**22])
def test_labels_are_the_largest_of_the_enlarged_scores(strip, monkeypatch):
    monkeypatch.setattr(arrays, "_STRIP", strip)
    scores = np.random.default_rng(0).normal(size=(7, 30, 40)).astype(np.float32)
    found = arrays.labels_of(scores, (301, 411))
    assert found.dtype == np.int64 and np.array_equal(found, arrays.enlarge(scores, (301, 411)).argmax(0))
