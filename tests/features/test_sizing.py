import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from pe_spatial.common.errors import OptionError
from pe_spatial.features.sizing import RESIZES, Sizing

SIZES = [(480, 640), (640, 480), (1, 1), (3, 5000), (5000, 3), (427, 640), (64, 64)]


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("unit", [8, 14, 16])
def test_sides_are_whole_patches_and_within_half_a_patch_of_the_rule(resize, size, unit):
    target = Sizing(112, resize, unit).target(size)
    assert all(side % unit == 0 and side >= unit for side in target)
    if resize == "square":
        wanted = (112, 112)
    else:
        side = min(size) if resize == "shorter" else max(size)
        wanted = [112 * one / side for one in size]
        if max(wanted) > 8 * 112:  # a thin one
            wanted = [8 * 112 * one / max(size) for one in size]
    for got, asked in zip(target, wanted, strict=True):
        assert abs(got - max(asked, unit)) <= unit / 2


def test_a_turned_picture_has_the_turned_size():
    sizing = Sizing(96, "shorter", 16)
    assert all(sizing.target(size) == sizing.target(size[::-1])[::-1] for size in SIZES)


def test_pixels_are_those_of_pillow_and_a_picture_that_fits_stays_as_it_is():
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    resized = Sizing(32, "shorter", 8)(image)
    assert resized.shape == (3, 32, 48)  # 44.8 columns are nearer to 6 patches than to 5
    expected = to_pil_image(image).resize((48, 32), Image.Resampling.BILINEAR)
    assert torch.equal(resized, pil_to_tensor(expected))
    assert torch.equal(Sizing(32, "shorter", 8)(resized), resized)


def test_nonsense_is_refused():
    with pytest.raises(OptionError, match="'shortest' is not one of shorter, longer, square"):
        Sizing(32, "shortest")
    with pytest.raises(OptionError, match="image_size 0"):
        Sizing(0)
