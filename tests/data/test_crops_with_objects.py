"""Crops of large pictures that hold small objects."""

import pytest
import torch
from torchvision import tv_tensors

from pe_spatial.common.errors import OptionError
from pe_spatial.data import FixedSizeCrop

SIZE = (300, 500)
BOXES = [[10.0, 10, 20, 18], [240, 150, 262, 171], [490, 290, 500, 300]]


def sample(boxes):
    shape = torch.tensor(boxes).reshape(-1, 4)
    return {
        "img": tv_tensors.Image(torch.zeros(3, *SIZE, dtype=torch.uint8)),
        "boxes": tv_tensors.BoundingBoxes(shape, format="XYXY", canvas_size=SIZE),
        "ignored_boxes": tv_tensors.BoundingBoxes([[100.0, 100, 104, 104]], format="XYXY", canvas_size=SIZE),
    }


def inside(cropped, row):
    """Whether all of an object is in a crop."""
    x1, y1, x2, y2 = cropped["boxes"][row].tolist()
    height, width = cropped["img"].shape[-2:]
    return x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height and x2 > x1


def test_every_crop_holds_a_whole_object_and_all_get_their_turn():
    torch.manual_seed(0)
    crop = FixedSizeCrop(40, with_object=1.0)
    held = torch.tensor(
        [[inside(cropped, row) for row in range(3)] for cropped in (crop(sample(BOXES)) for _ in range(60))]
    )
    assert held.any(1).all() and (held.sum(0) > 8).all()


def test_the_share_is_kept_and_none_changes_nothing():
    torch.manual_seed(0)
    crops = [FixedSizeCrop(40, with_object=0.5)(sample(BOXES)) for _ in range(200)]
    held = sum(any(inside(cropped, row) for row in range(3)) for cropped in crops)
    assert 70 < held < 130
    torch.manual_seed(1)
    plain = FixedSizeCrop(40)(sample(BOXES))
    torch.manual_seed(1)
    assert torch.equal(FixedSizeCrop(40, with_object=0.0)(sample(BOXES))["boxes"], plain["boxes"])


@pytest.mark.parametrize("boxes", [[], [[0.0, 0, 500, 300]], [[100.0, 100, 190, 120]]])
def test_no_object_or_one_larger_than_the_crop(boxes):
    """The larger one fills the crop along its longer side."""
    torch.manual_seed(0)
    for _ in range(20):
        cropped = FixedSizeCrop([50, 60], with_object=1.0)(sample(boxes))
        assert cropped["img"].shape == (3, 50, 60)
        for x1, y1, x2, y2 in cropped["boxes"].tolist():
            assert (x1, x2) == (0, 60) and y1 < y2


def test_a_share_that_is_none_is_refused():
    with pytest.raises(OptionError, match="with_object 1.5 is not a share"):
        FixedSizeCrop(40, with_object=1.5)
