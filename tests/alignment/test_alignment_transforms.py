"""Aspect jitter, hidden tokens, and maps that follow their image."""

import pytest
import torch
from mmengine.dataset import Compose
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from pe_spatial.alignment.token_map import TokenMap
from pe_spatial.alignment.transforms import HideTokens, RandomAspect
from pe_spatial.data import PackSample, seeded


def image(height=24, width=32):
    pixels = torch.arange(height * width).remainder(251).byte()
    return tv_tensors.Image(pixels.view(height, width).expand(3, -1, -1))


def windows(ratio, size=(32, 32), count=300):
    """(height, width) of the windows that are drawn from an image of 60 x 80."""
    transform = RandomAspect(size, ratio)
    drawn = [transform.make_params([image(60, 80)]) for _ in range(count)]
    assert all(d["top"] + d["height"] <= 60 and d["left"] + d["width"] <= 80 for d in drawn)
    return torch.tensor([[d["height"], d["width"]] for d in drawn]).float()


def test_the_aspect_ratio_is_jittered_by_as_little_cropping_as_possible():
    torch.manual_seed(0)
    sides = windows((0.75, 1.33))
    assert ((sides[:, 0] == 60) | (sides[:, 1] == 80)).all()
    factor = sides[:, 1] / sides[:, 0] / (80 / 60)
    assert 0.73 < factor.min() < 0.78
    assert 1.28 < factor.max() < 1.36
    assert abs(factor.log().mean()) < 0.03  # squeezed as often as stretched


def test_a_ratio_of_one_only_resizes():
    sample = RandomAspect([16, 16], [1, 1])({"img": image()})
    assert torch.equal(sample["img"], v2.functional.resize(image(), [16, 16], antialias=True))


def test_masks_and_maps_move_with_the_image():
    """A map that says what the pixels say still does after every transform; the cells are sampled bilinearly."""
    torch.manual_seed(0)
    ramp = torch.linspace(0, 249, 64)
    pixels = torch.stack((ramp[None].expand(48, -1), ramp[:48, None].expand(-1, 64), torch.zeros(48, 64)))
    cells = F.adaptive_avg_pool2d(pixels[:2], (12, 16))
    sample = {
        "img": tv_tensors.Image(pixels.round().byte()),
        "masks": tv_tensors.Mask(pixels[:1] > 125),
        "mask_logits": TokenMap(cells, (48, 64)),
    }
    moved = Compose([RandomAspect([96, 96], [0.8, 0.8]), v2.RandomHorizontalFlip(1.0)])(sample)
    assert moved["mask_logits"].canvas_size == (96, 96)
    assert moved["img"].shape == (3, 96, 96)
    expected = F.adaptive_avg_pool2d(moved["img"][:2].float(), (12, 16))
    difference = (moved["mask_logits"].as_subclass(torch.Tensor) - expected).abs()
    assert difference[:, 1:-1, 1:-1].max() < 1.5
    agree = moved["masks"][0] == (moved["img"][0] > 125)
    assert agree.float().mean() > 0.98


def test_a_token_map_is_a_map():
    with pytest.raises(ValueError, match=r"floating-point \[K, h, w\], not torch.int64 \[2, 2\]"):
        TokenMap(torch.zeros(2, 2, dtype=torch.int64), (4, 4))
    half = TokenMap(torch.zeros(3, 2, 2), (8, 8)).to(torch.float16)
    assert half.canvas_size == (8, 8)
    assert half.clone().canvas_size == (8, 8)
    assert type(half + 1) is torch.Tensor


@pytest.mark.parametrize(("size", "grid"), [((32, 48), (4, 6)), ((24, 40), (3, 5))])
def test_three_quarters_of_the_units_are_hidden(size, grid):
    torch.manual_seed(0)
    hide = HideTokens(8, ratio=0.75, unit=2)
    masks = torch.stack([hide({"img": image(*size)})["token_mask"] for _ in range(200)])  # [200, 1, h, w]
    assert tuple(masks.shape[1:]) == (1, *grid)
    units = masks[:, 0, ::2, ::2]
    count = units[0].numel()
    assert (units.flatten(1).sum(1) == round(0.75 * count)).all()
    whole = units.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, : grid[0], : grid[1]]
    assert torch.equal(whole, masks[:, 0])
    assert (units.float().mean(0) - round(0.75 * count) / count).abs().max() < 0.12  # everywhere alike


def test_the_pattern_belongs_to_the_draw():
    hide = HideTokens(8)
    with seeded(1, 5):
        one = hide({"img": image(64, 64)})["token_mask"]
    with seeded(1, 5):
        again = hide({"img": image(64, 64)})["token_mask"]
    with seeded(1, 6):
        other = hide({"img": image(64, 64)})["token_mask"]
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_both_are_packed():
    sample = {"img": image(), "img_path": "a", "mask_logits": TokenMap(torch.rand(5, 3, 4), (24, 32))}
    packed = PackSample()(HideTokens(8)(sample))["data_samples"]
    assert type(packed.mask_logits.data) is torch.Tensor
    assert packed.mask_logits.shape == (3, 4)
    assert packed.token_mask.data.dtype == torch.bool


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomAspect([0, 4]), r"\[0, 4\]"),
        (lambda: RandomAspect([4, 4], [1.3, 0.7]), r"\[1.3, 0.7\]"),
        (lambda: HideTokens(0), "patch_size 0"),
        (lambda: HideTokens(8, ratio=1.0), "ratio 1.0"),
    ],
)
def test_options_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()
