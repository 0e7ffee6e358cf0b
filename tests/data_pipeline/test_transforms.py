import pytest
import torch
from mmengine.dataset import Compose
from torchvision import tv_tensors

from pe_spatial.data import FixedSizeCrop, SanitizeInstances, boxes_of_masks

# Detectron2's large-scale jitter as it stands in a config
LARGE_SCALE_JITTER = [
    {"type": "torchvision.transforms.v2.RandomHorizontalFlip", "p": 0.5},
    {"type": "ScaleJitter", "target_size": [64, 64], "scale_range": [0.1, 2.0]},
    {"type": "FixedSizeCrop", "size": [64, 64]},
    {"type": "SanitizeInstances", "fit_boxes": True},
]


def rectangles(size, boxes):
    """A sample whose masks are the boxes, and whose image holds the number of the last box of every pixel."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        masks[number, y1:y2, x1:x2] = True
        image[:, y1:y2, x1:x2] = 100 + number
    return {
        "img": tv_tensors.Image(image),
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=size
        ),
        "labels": torch.arange(len(boxes)),
        "masks": tv_tensors.Mask(masks),
        "img_path": "a.png",
    }


def test_boxes_of_masks_inverts_drawing():
    boxes = [[0, 0, 1, 1], [2, 3, 9, 4], [0, 0, 12, 10], [11, 9, 12, 10]]
    masks = rectangles((10, 12), boxes)["masks"]
    assert boxes_of_masks(masks).tolist() == boxes
    assert boxes_of_masks(torch.zeros(1, 4, 5, dtype=torch.bool)).tolist() == [[0, 0, 0, 0]]
    assert boxes_of_masks(torch.zeros(0, 4, 5, dtype=torch.bool)).shape == (0, 4)


@pytest.mark.parametrize("size", [(10, 12), (4, 30), (30, 5), (10, 5)])
def test_the_crop_is_at_most_its_size_and_never_pads(size):
    torch.manual_seed(0)
    seen = set()
    for _ in range(40):
        sample = rectangles((10, 12), [[2, 3, 9, 7]])
        sample["img"][0] = torch.arange(120).reshape(10, 12)
        cropped = FixedSizeCrop(size)(sample)
        H, W = min(10, size[0]), min(12, size[1])
        assert cropped["img"].shape == (3, H, W)
        assert cropped["masks"].shape == (1, H, W)
        top, left = divmod(int(cropped["img"][0, 0, 0]), 12)
        seen.add((top, left))
        assert torch.equal(cropped["img"], sample["img"][:, top : top + H, left : left + W])
        assert torch.equal(cropped["masks"], sample["masks"][:, top : top + H, left : left + W])
        assert cropped["boxes"].canvas_size == (H, W)
    places = (10 - H + 1) * (12 - W + 1)
    assert len(seen) > places / 3  # random places, all of them possible


def test_large_scale_jitter_keeps_instances_consistent():
    pipeline = Compose(LARGE_SCALE_JITTER)
    torch.manual_seed(1)
    counts = set()
    for _ in range(60):
        sample = pipeline(rectangles((48, 40), [[2, 3, 12, 20], [15, 5, 36, 45], [30, 30, 31, 31]]))
        assert max(sample["img"].shape[1:]) <= 64
        assert sample["masks"].shape[1:] == sample["img"].shape[1:]
        assert isinstance(sample["masks"], tv_tensors.Mask)
        assert isinstance(sample["boxes"], tv_tensors.BoundingBoxes)
        assert len(sample["boxes"]) == len(sample["labels"]) == len(sample["masks"])
        assert torch.equal(sample["boxes"].as_subclass(torch.Tensor), boxes_of_masks(sample["masks"]))
        assert sample["masks"].flatten(1).any(1).all()
        for label, mask in zip(sample["labels"], sample["masks"], strict=True):
            # the image moved with the masks: deep inside, away from interpolation, it shows the instance's number
            inside = torch.nn.functional.avg_pool2d(mask[None].float(), 9, 1, 4) > 0.99
            values = sample["img"][:1][inside]
            assert label == 1 or ((values.int() - 100 - label).abs() <= 1).all()
        counts.add(len(sample["labels"]))
    assert {2, 3} <= counts  # crops did empty some


def test_emptied_instances_go_with_all_their_columns():
    sample = rectangles((10, 12), [[0, 0, 4, 4], [6, 6, 9, 9], [5, 5, 8, 8]])
    sample["masks"][1] = False  # hidden, although its box is whole
    sample["boxes"][2] = torch.tensor([14.0, 5, 20, 8])  # beyond the image, although its mask is not
    kept = SanitizeInstances()(sample)
    assert kept["labels"].tolist() == [0]
    assert kept["boxes"].tolist() == [[0, 0, 4, 4]]
    assert kept["masks"].shape == (1, 10, 12)
    assert kept["img_path"] == "a.png"


def test_boxes_are_clamped_and_fitted():
    sample = rectangles((10, 12), [[2, 2, 6, 6]])
    sample["boxes"][0] = torch.tensor([-3.0, 1, 40, 9])
    assert SanitizeInstances()(dict(sample))["boxes"].tolist() == [[0, 1, 12, 9]]
    assert SanitizeInstances(fit_boxes=True)(dict(sample))["boxes"].tolist() == [[2, 2, 6, 6]]
    assert SanitizeInstances(min_size=5, fit_boxes=True)(dict(sample))["boxes"].shape == (0, 4)


def test_maps_are_never_taken_for_the_masks_of_one_instance():
    sample = rectangles((10, 12), [[2, 2, 6, 6]])
    sample["boxes"][0] = torch.tensor([3.0, 3, 3, 3])  # torchvision's filter empties a [1, H, W] map here
    sample["sem_seg"] = tv_tensors.Mask(torch.ones(1, 10, 12, dtype=torch.int64))
    kept = SanitizeInstances()(sample)
    assert kept["labels"].shape == (0,)
    assert kept["sem_seg"].shape == (1, 10, 12)


def test_ignored_regions_are_filtered_on_their_own():
    sample = rectangles((10, 12), [[2, 2, 6, 6]])
    other = rectangles((10, 12), [[0, 0, 3, 3], [4, 4, 4, 4]])
    sample |= {"ignored_boxes": other["boxes"], "ignored_masks": other["masks"]}
    kept = SanitizeInstances()(sample)
    assert (len(kept["boxes"]), len(kept["ignored_boxes"]), len(kept["ignored_masks"])) == (1, 1, 1)


def test_samples_without_instances_pass():
    image = {"img": tv_tensors.Image(torch.zeros(3, 10, 12, dtype=torch.uint8))}
    assert SanitizeInstances()(image).keys() == {"img"}
    assert FixedSizeCrop([4, 4])(image)["img"].shape == (3, 4, 4)


def test_bad_arguments():
    for size in ([5], [0, 4], [4, 4, 4]):
        with pytest.raises(ValueError, match=r"\(H, W\) in pixels"):
            FixedSizeCrop(size)
    with pytest.raises(ValueError, match="min_size 0"):
        SanitizeInstances(min_size=0)
    boxes_only = rectangles((10, 12), [[2, 2, 6, 6]])
    del boxes_only["masks"]
    with pytest.raises(ValueError, match="needs masks"):
        SanitizeInstances(fit_boxes=True)(boxes_only)
