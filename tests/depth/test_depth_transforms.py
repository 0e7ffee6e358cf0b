import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from pe_spatial.depth.transforms import CropRegion, RandomExposure, RandomZoom


def sample(height=24, width=32):
    """Depth in which every pixel has its own value, and an image that says the same."""
    values = torch.arange(1, height * width + 1).reshape(1, height, width)
    image = torch.stack([values[0] // 256, values[0] % 256, values[0] * 0]).to(torch.uint8)
    return {"img": tv_tensors.Image(image), "depth": tv_tensors.Mask(values.float())}


@pytest.mark.parametrize(
    "transform",
    [
        v2.Resize([13, 50]),
        v2.RandomRotation(10, interpolation=v2.InterpolationMode.BILINEAR),
        v2.RandomHorizontalFlip(1.0),
        v2.RandomCrop([9, 7]),
        RandomZoom([1.5, 2.0], divide_depth=False, probability=1.0),
    ],
)
def test_no_transform_invents_depth(transform):
    torch.manual_seed(0)
    before = sample()
    after = transform(before)["depth"]
    assert set(after.flatten().tolist()) <= set(before["depth"].flatten().tolist()) | {0.0}


def test_crop_region_takes_the_same_place_of_both():
    cropped = CropRegion([3, 5, 20, 17])(sample())
    assert cropped["img"].shape == (3, 12, 17)
    assert torch.equal(cropped["depth"].as_subclass(torch.Tensor), sample()["depth"][:, 5:17, 3:20])
    image = cropped["img"].long()
    assert torch.equal(image[0] * 256 + image[1], cropped["depth"][0].long())


@pytest.mark.parametrize("region", [[0, 0, 33, 10], [0, 0, 10, 25]])
def test_crop_region_beyond_the_image(region):
    with pytest.raises(ValueError, match=r"is larger than the image of \(24, 32\)"):
        CropRegion(region)(sample())


@pytest.mark.parametrize("divide", [False, True])
def test_zoom_changes_metric_depth_only_where_the_recipe_says_so(divide):
    torch.manual_seed(1)
    zoom = RandomZoom([2.0, 2.0], divide_depth=divide, probability=1.0)
    before, after = sample(), zoom(sample())
    assert after["img"].shape == before["img"].shape and after["depth"].shape == before["depth"].shape
    known = set((before["depth"] / 2 if divide else before["depth"]).flatten().tolist())
    assert set(after["depth"].flatten().tolist()) <= known
    assert after["depth"].unique().numel() == 12 * 16  # a quarter of the pixels, each four times


def test_zoom_of_one_changes_nothing():
    before, after = sample(), RandomZoom([1.0, 1.0], divide_depth=True, probability=1.0)(sample())
    assert torch.equal(before["depth"], after["depth"]) and torch.equal(before["img"], after["img"])


def test_zoom_keeps_image_and_depth_together():
    torch.manual_seed(2)
    plain = sample(40, 40)
    plain["img"] = tv_tensors.Image((plain["depth"] > 700).expand(3, -1, -1).to(torch.uint8) * 255)
    for _ in range(5):
        zoomed = RandomZoom([1.2, 3.0], divide_depth=False, probability=1.0)(plain)
        disagree = (zoomed["img"][0] > 127) != (zoomed["depth"][0] > 700)
        assert disagree.float().mean() < 0.05  # along the edge, where the image is smooth


def test_exposure_moves_colors_within_its_factors_and_leaves_depth():
    torch.manual_seed(0)
    gray = {**sample(), "img": tv_tensors.Image(torch.full((3, 24, 32), 100, dtype=torch.uint8))}
    seen = set()
    for _ in range(20):
        changed = RandomExposure(gamma=[1, 1], brightness=[0.5, 0.6], color=[1, 1], probability=1.0)(gray)
        seen |= set(changed["img"].unique().tolist())
        assert changed["depth"] is gray["depth"] and changed["img"].dtype == torch.uint8
    assert min(seen) >= 50 and max(seen) <= 60 and len(seen) > 3
    neutral = RandomExposure(gamma=[1, 1], brightness=[1, 1], color=[1, 1], probability=1.0)(sample())
    assert torch.equal(neutral["img"], sample()["img"])


@pytest.mark.parametrize("transform", [RandomExposure(probability=0.0), RandomZoom([2, 3], True, probability=0.0)])
def test_probability_zero_returns_the_sample(transform):
    before = sample()
    assert transform(before) is before


@pytest.mark.parametrize(
    "build",
    [
        lambda: RandomZoom([0.5, 2], divide_depth=True),
        lambda: RandomZoom([2, 1], divide_depth=True),
        lambda: CropRegion([5, 0, 5, 9]),
        lambda: RandomExposure(gamma=[0, 1]),
    ],
)
def test_arguments_are_checked(build):
    with pytest.raises(ValueError):
        build()
