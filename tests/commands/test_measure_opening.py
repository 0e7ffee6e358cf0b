"""tools/dev/measure_opening.py: its lines for a checkpoint, and for a recipe of which it writes one."""

import sys
from pathlib import Path

import pytest
from small_segmenters import save_segmenter

sys.path.append(str(Path(__file__).parents[2] / "tools" / "dev"))
import measure_opening

from pe_spatial.common.tensors import read_tensor_file
from pe_spatial.inference.predictor import Predictor


@pytest.mark.parametrize("is_new", [True, False])
def test_a_checkpoint_is_read_and_opened(tmp_path, is_new):
    path = save_segmenter(tmp_path / "seg.pth")
    assert measure_opening.read_file(path, is_new) > 0
    seconds, _ = measure_opening.open_file(path, is_new)
    assert seconds > 0


def test_the_checkpoint_of_a_recipe_opens(tmp_path):
    path = tmp_path / "model.pth"
    measure_opening.write_random("demo/mask_rcnn_tiny_shapes", 3, path)
    weights = read_tensor_file(path)["state_dict"]
    assert max(float(value.abs().max()) for key, value in weights.items() if key.startswith("backbone")) <= 1
    assert Predictor(path, "cpu").classes == ("class 0", "class 1", "class 2")
