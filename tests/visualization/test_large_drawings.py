"""Drawings of large pictures are drawn in strips and in place: equal to the definition, pixel by pixel."""

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from pe_spatial.data import encode_masks
from pe_spatial.visualization import (
    color_range,
    colorize_depth,
    depth_picture,
    draw_instances,
    overlay_masks,
    quantile,
    ramp_colors,
)
from pe_spatial.visualization import colors as module
from pe_spatial.visualization.classes import draw_classes
from pe_spatial.visualization.colors import rgb_of
from pe_spatial.visualization.layout import reduced, thinned


def tinted(image, masks, opacity):
    """The definition, in floating point."""
    canvas = image.clone()
    for number, mask in enumerate(masks):
        part, color = canvas.float(), torch.tensor(rgb_of(number), dtype=torch.float32)[:, None]
        part[:, mask] = (1 - opacity) * part[:, mask] + opacity * color
        padded = torch.nn.functional.pad(mask[None, None].float(), (1, 1, 1, 1), mode="replicate")
        part[:, mask & (torch.nn.functional.max_pool2d(1 - padded, 3, stride=1)[0, 0] > 0)] = color
        canvas = part.round().to(torch.uint8)
    return canvas


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("opacity", [0.45, 0.3])
def test_masks_are_tinted_and_outlined_as_the_definition_says(seed, opacity):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 60, 2).tolist())
    image = torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8))
    masks = torch.from_numpy(rng.random((4, *size)) < (0.97 if seed % 2 else 0.3))
    masks[0], masks[1] = False, True
    expected = tinted(image, masks, opacity)
    assert torch.equal(overlay_masks(image, masks, opacity=opacity), expected)
    assert torch.equal(overlay_masks(image, encode_masks(masks), opacity=opacity), expected)


def test_colors_of_every_level_are_interpolated_ones():
    levels = torch.cat([torch.linspace(-0.1, 1.1, 700_000), torch.rand(300_000)]).reshape(1000, 1000)
    expected = module._interpolated(levels).permute(2, 0, 1)
    assert torch.equal(ramp_colors(levels), expected)


def test_strips_of_a_map_have_the_colors_of_the_map(monkeypatch):
    depth = 10 * torch.rand(64, 48)
    depth[:3] = 0
    whole = colorize_depth(depth, 2, 8)
    for part in (module, __import__("pe_spatial.visualization.depth", fromlist=["depth"])):
        monkeypatch.setattr(part, "_STRIP", 100)
    assert torch.equal(colorize_depth(depth, 2, 8), whole) and not whole[:, :3].any()


def test_a_quantile_is_the_value_at_its_place():
    values = torch.rand(1001)[torch.randperm(1001)].round(decimals=2)
    for share in (0.0, 0.02, 0.5, 0.98, 1.0):
        assert quantile(values, share) == values.sort().values[round(1000 * share)]


def test_the_ends_of_depth_colors_are_those_of_what_is_seen_of_a_large_map():
    depth = torch.rand(1, 3000, 2500) * 10
    depth[0, ::2] = 0
    near, far = color_range(depth)
    measured = depth[depth > 0]
    assert abs(float((measured < near).float().mean()) - 0.02) < 1e-3
    assert abs(float((measured > far).float().mean()) - 0.02) < 1e-3
    assert color_range(depth, near=3.0) == (3.0, far) and color_range(depth, 3.0, 2.0) == (3.0, 2.0)
    assert color_range(torch.full((5, 6), 3.0)) == (3.0, pytest.approx(3.003))


def test_thin_maps_are_drawn_as_whole_ones_are():
    image = torch.randint(0, 256, (3, 700, 900), dtype=torch.uint8)
    labels = torch.randint(0, 4, (700, 900))
    names, colors = ["a", "b", "c"], [[250, 0, 0], [0, 250, 0], [0, 0, 250]]
    whole = draw_classes(image, labels, names, colors, longest=400)
    parts = reduced(image, 400), thinned(labels, 400)
    assert torch.equal(draw_classes(*parts, names, colors, longest=400), whole)


@pytest.mark.parametrize("size", [(700, 900), (701, 1199), (3, 900), (900, 1)])
@pytest.mark.parametrize("as_rle", [True, False])
def test_large_pictures_of_objects_are_those_of_the_reduced_image(size, as_rle):
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8))
    masks = torch.zeros(4, *size, dtype=torch.bool)
    for mask in masks[:3]:
        top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
        mask[top : top + 300, left : left + 200] = torch.rand(size)[top : top + 300, left : left + 200] < 0.8
    masks[2, :2, :2] = True  # of which one pixel is left
    boxes = torch.rand(4, 4).sort().values * torch.tensor([size[1], size[0]] * 2)
    step = -(-max(size) // 300)
    found = InstanceData(
        bboxes=boxes, labels=torch.tensor([0, 1, 0, 1]), masks=encode_masks(masks) if as_rle else masks
    )
    few = InstanceData(bboxes=boxes / step, labels=found.labels, masks=masks[:, ::step, ::step])
    expected = draw_instances(reduced(image, 300), few, ["a", "b"])
    drawn = draw_instances(image, found, ["a", "b"], longest=300)
    assert torch.equal(drawn, expected) and step >= 3


def test_a_pixel_of_a_reduced_image_is_the_mean_of_those_it_stands_for():
    image = torch.randint(0, 256, (3, 301, 200), dtype=torch.uint8)
    small = reduced(image, 101)
    assert small.shape == thinned(image, 101).shape == (3, 101, 67)
    blocks = image[:, :300, :198].reshape(3, 100, 3, 66, 3).float().mean((2, 4))
    assert (small[:, :100, :66].float() - blocks).abs().max() <= 0.5
    assert torch.equal(small[:, 100], image[:, 300, ::3]) and torch.equal(small[:, :, 66], image[:, ::3, 198])
    by_pixels = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(reduced(by_pixels, 101), small) and reduced(image, 301) is image


def test_large_depth_maps_are_drawn_thin_in_the_colors_of_the_whole():
    depth = torch.rand(1, 900, 700) * 10
    near, far = color_range(depth)
    expected = depth_picture(depth[:, ::2, ::2], near, far)
    assert torch.equal(depth_picture(depth, longest=450), expected)
