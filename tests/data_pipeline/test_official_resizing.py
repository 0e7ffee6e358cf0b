"""Sizes to the pixel: tables by the official formulas against the transforms."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from official_sizes import deta, detectron2, random_pairs, resize_scale
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from pe_spatial.data import KeepRatioResize, ScaleJitter, fitted_size, jittered_size

SIZES = [(1024, 1024), (1792, 1792), (992, 992), (1696, 1696), (800, 1333), (512, 2048), (640, 2560)]


@pytest.mark.parametrize(("size", "max_size"), SIZES)
@pytest.mark.parametrize(("rounding", "official"), [("half_up", detectron2), ("floor_long", deta)])
def test_a_thousand_sizes_are_the_official_ones(size, max_size, rounding, official):
    pairs = random_pairs(size)
    table = {pair: official(*pair, size, max_size) for pair in pairs}
    assert {pair: fitted_size(pair, size, max_size, rounding) for pair in pairs} == table
    without_bound = {pair: official(*pair, size, 10**9) for pair in pairs}
    assert {pair: fitted_size(pair, size, None, rounding) for pair in pairs} == without_bound


def test_sizes_of_mmseg_are_those_of_detectron2():
    """In exact arithmetic both round the same numbers, and mmcv's own function gives them where it is installed."""
    rescale_size = pytest.importorskip("mmcv.image.geometric").rescale_size
    for h, w in random_pairs(7):
        height, width = fitted_size((h, w), 512, 2048, "half_up")
        assert (max(width, 1), max(height, 1)) == tuple(max(side, 1) for side in rescale_size((w, h), (2048, 512)))


@pytest.mark.parametrize(
    ("image", "longest", "rounding", "expected"),
    [
        ((426, 640), 1024, "half_up", (682, 1024)),
        ((640, 426), 1024, "half_up", (1024, 682)),
        ((426, 640), 1792, "floor_long", (1193, 1792)),
        ((426, 640), 992, "floor_long", (660, 991)),
        ((480, 640), 1792, "floor_long", (1344, 1792)),
        ((1, 5000), 1024, "half_up", (1, 1024)),
        ((20000, 1), 1024, "half_up", (1024, 1)),
        ((1, 5000), 992, "floor_long", (1, 5000)),  # the longer side follows the shorter one; see `limit`
        ((1, 1), 7, "half_up", (7, 7)),
    ],
)
def test_known_sizes(image, longest, rounding, expected):
    assert fitted_size(image, longest, longest, rounding) == expected
    step = KeepRatioResize(max_size=longest, rounding=rounding)
    assert step(tv_tensors.Image(torch.zeros(3, *image, dtype=torch.uint8))).shape == (3, *expected)


@pytest.mark.parametrize("rounding", ["half_up", "floor_long"])
def test_no_side_is_ever_empty_nor_beyond_the_limit(rounding):
    """Every thin picture fits the canvas, and has a pixel to be seen."""
    step = KeepRatioResize(max_size=96, rounding=rounding, limit=128)
    for h, w in [(1, 1), (1, 97), (1, 200), (1, 20000), (3, 9000), (20000, 1), (7, 1900), (2, 2)]:
        sample = {"img": tv_tensors.Image(torch.full((3, h, w), 9, dtype=torch.uint8)), "labels": torch.tensor([1])}
        sample["boxes"] = tv_tensors.BoundingBoxes(torch.tensor([[0.0, 0, w, h]]), format="XYXY", canvas_size=(h, w))
        sample["masks"] = tv_tensors.Mask(torch.ones(1, h, w, dtype=torch.bool))
        done = step(sample)
        size = tuple(done["img"].shape[-2:])
        assert min(size) >= 1 and max(size) <= 128 and (done["img"] == 9).all()
        assert done["masks"].shape[-2:] == size and done["masks"].all() and done["boxes"].canvas_size == size
        assert done["boxes"][0].tolist() == pytest.approx([0, 0, size[1], size[0]])
        assert done["labels"].tolist() == [1]


def test_pixels_are_pillows():
    """Enlarged and shrunk; what is no picture of bytes is left to torchvision."""
    pixels = torch.randint(256, (3, 60, 91), dtype=torch.uint8, generator=torch.manual_seed(0))
    for longest in (40, 91, 200):
        ours = KeepRatioResize(max_size=longest)(
            {"img": tv_tensors.Image(pixels), "depth": tv_tensors.Mask(pixels[:1])}
        )
        height, width = detectron2(60, 91, longest, longest)
        theirs = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BILINEAR)
        assert isinstance(ours["img"], tv_tensors.Image) and ours["img"].dtype == torch.uint8
        assert torch.equal(ours["img"].permute(1, 2, 0), torch.from_numpy(np.array(theirs)))
        nearest = v2.functional.resize(tv_tensors.Mask(pixels[:1]), [height, width])
        assert torch.equal(ours["depth"], nearest)
    floats = KeepRatioResize(max_size=40)(tv_tensors.Image(pixels.double()))
    assert floats.dtype == torch.float64 and floats.shape == (3, 26, 40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give size .* max_size"),
        ({"size": 0}, "size 0, max_size None"),
        ({"max_size": 10.5}, "in whole pixels"),
        ({"size": 512, "max_size": 511}, "size 512, max_size 511, .* each at most as large as the next"),
        ({"max_size": 64, "limit": 63}, "max_size 64, limit 63"),
        ({"max_size": 64, "rounding": "up"}, "rounding 'up' is not one of half_up, floor_long"),
    ],
)
def test_impossible_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        KeepRatioResize(**options)


# --- large-scale jitter -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", [(1024, 1024), (512, 512), (640, 480)])
def test_a_thousand_draws_give_the_sizes_of_resize_scale(target):
    rng = np.random.default_rng(0)
    for pair, scale in zip(random_pairs(1), rng.uniform(0.1, 2.0, 1000), strict=True):
        assert jittered_size(pair, target, float(scale)) == resize_scale(*pair, target, float(scale))


def test_the_draw_is_uniform_and_torchs():
    """The size is that of the scale that torch's generator gives, and scales cover the range evenly."""
    jitter, image = ScaleJitter([400, 600], [0.5, 2.0]), tv_tensors.Image(torch.zeros(3, 90, 120, dtype=torch.uint8))
    torch.manual_seed(3)
    drawn = [tuple(jitter.make_params([image])["size"]) for _ in range(2000)]
    torch.manual_seed(3)
    scales = [0.5 + 1.5 * float(torch.rand(())) for _ in range(2000)]
    assert drawn == [resize_scale(90, 120, (400, 600), scale) for scale in scales]
    heights = np.sort([height for height, _ in drawn])  # 400 times the scale, for the target is wider than the image
    uniform = np.linspace(200, 800, len(heights))
    assert np.abs(heights - uniform).max() < 30


def test_the_whole_sample_jitters_together():
    torch.manual_seed(0)
    pipeline = Compose([{"type": "ScaleJitter", "target_size": [64, 64], "scale_range": [0.1, 2.0]}])
    for _ in range(20):
        sample = {
            "img": tv_tensors.Image(torch.zeros(3, 30, 50, dtype=torch.uint8)),
            "masks": tv_tensors.Mask(torch.ones(2, 30, 50, dtype=torch.bool)),
        }
        done = pipeline(sample)
        size = tuple(done["img"].shape[-2:])
        assert done["masks"].shape[-2:] == size and 6 <= max(size) <= 128
        assert abs(Fraction(*size) - Fraction(3, 5)) < Fraction(1, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_size": [64]}, r"target_size \[64\] is not \(H, W\)"),
        ({"target_size": [0, 64]}, "height 0 must be at least 1"),
        ({"target_size": [64, 64], "scale_range": [2.0, 0.1]}, "two increasing positive factors"),
        ({"target_size": [64, 64], "scale_range": [0, 1]}, "two increasing positive factors"),
    ],
)
def test_impossible_jitter(options, message):
    with pytest.raises(ValueError, match=message):
        ScaleJitter(**options)


@pytest.mark.parametrize(
    ("size", "expected"), [((370, 1226), (370, 1226)), ((376, 1242), (376, 1242)), ((4000, 6000), (828, 1242))]
)
def test_smaller_images_stay_where_they_are_not_to_be_enlarged(size, expected):
    resize = KeepRatioResize(max_size=1242, enlarge=False)
    assert resize.output_size(size) == expected
    assert max(KeepRatioResize(max_size=1242).output_size(size)) == 1242
    image = tv_tensors.Image(torch.randint(0, 256, (3, size[0] // 20, size[1] // 20), dtype=torch.uint8))
    small = KeepRatioResize(max_size=62, enlarge=False)({"img": image})["img"]
    assert tuple(small.shape[1:]) == small_size(image) and (max(image.shape) > 62 or torch.equal(small, image))


def small_size(image):
    size = tuple(image.shape[1:])
    return size if max(size) <= 62 else KeepRatioResize(max_size=62).output_size(size)
