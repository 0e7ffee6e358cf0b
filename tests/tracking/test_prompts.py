import sys

import pytest
import torch

from pe_spatial.tracking.prompts import BoxPrompter, Sam2Prompter

FRAME = torch.zeros(3, 40, 60, dtype=torch.uint8)


def test_a_box_is_its_own_mask_and_the_smaller_one_lies_on_top():
    mask = BoxPrompter()(FRAME, {1: (5, 5, 15, 15), 2: (-10, 0, 40, 30)}, {})
    assert mask.shape == (40, 60)
    assert (mask[5:15, 5:15] == 1).all() and (mask == 1).sum() == 100
    assert (mask == 2).sum() == 30 * 40 - 100


def test_a_point_is_a_square_around_it():
    mask = BoxPrompter(point_size=8)(FRAME, {}, {3: [(30, 20, True), (2, 2, True), (50, 20, False)]})
    assert (mask[16:24, 26:34] == 3).all() and (mask[:6, :6] == 3).all()
    assert (mask == 3).sum() == 64 + 36


@pytest.mark.parametrize(
    ("boxes", "points", "message"),
    [
        ({1: (10, 10, 10, 20)}, {}, "no area"),
        ({1: (70, 10, 90, 20)}, {}, "no area in a frame of 60 x 40"),
        ({0: (0, 0, 5, 5)}, {}, "outside 1…255"),
        ({}, {1: [(60, 5, True)]}, "outside the frame"),
        ({}, {1: [(5, 5, False)]}, "no positive point"),
    ],
)
def test_prompts_that_mean_nothing_are_refused(boxes, points, message):
    with pytest.raises(ValueError, match=message):
        BoxPrompter()(FRAME, boxes, points)


def test_sam2_is_asked_for_only_when_its_weights_are_given(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"sam2\.1_hiera_"):
        Sam2Prompter(str(tmp_path / "sam2.1_hiera_tiny.pt"))
    (tmp_path / "own.pt").touch()
    with pytest.raises(ValueError, match="size"):
        Sam2Prompter(str(tmp_path / "own.pt"))
    monkeypatch.setitem(sys.modules, "hydra.utils", None)
    with pytest.raises(ModuleNotFoundError, match="pip install sam2"):
        Sam2Prompter(str(tmp_path / "own.pt"), size="tiny")


class Predictor:
    """Draws what it is asked for, as SAM 2's predictor returns it."""

    def set_image(self, image):
        assert image.shape == (40, 60, 3)

    def predict(self, point_coords, point_labels, box, multimask_output):
        mask = torch.zeros(1, 40, 60)
        if box is not None:
            x1, y1, x2, y2 = (int(value) for value in box)
            mask[0, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] = 1
        for (x, y), label in zip([] if point_coords is None else point_coords, point_labels or [], strict=False):
            mask[0, int(y), int(x)] = label
        return mask.numpy(), None, None


def test_what_sam2_draws_becomes_one_mask():
    prompter = Sam2Prompter.__new__(Sam2Prompter)
    prompter.predictor = Predictor()
    mask = prompter(FRAME, {1: (0, 0, 30, 30), 2: (10, 10, 20, 20)}, {})
    assert (mask == 2).sum() == 64 and (mask == 1).sum() == 28 * 28 - 64
    with pytest.raises(ValueError, match="finds nothing at the prompts of object 4"):
        prompter(FRAME, {4: (10, 10, 12, 12)}, {})
