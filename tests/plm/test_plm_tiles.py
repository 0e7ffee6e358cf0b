"""Tiles: the official grids and pixels, and what is true of every picture."""

import json

import PIL
import pytest
import torch
from PIL import Image
from small_plm import DATA, golden
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from pe_spatial.commands.benchmark.fidelity.rule import picture
from pe_spatial.common.errors import OptionError
from pe_spatial.plm.tiles import cut_picture, find_grid, normalize, split

TABLE = json.loads((DATA / "plm_tiles.json").read_text())


def random_picture(height, width):
    return torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_grids_are_the_official_ones_of_all_168_sizes():
    assert len(TABLE["rows"]) == 168
    for width, height, across, down, fits in TABLE["rows"]:
        found = find_grid(height, width, TABLE["tile"], TABLE["max_num_tiles"])
        assert found == ((down, across), fits), f"{width} x {height}"


@pytest.mark.parametrize(
    ("name", "size", "most"),
    [
        ("landscape", (150, 260), 6),
        ("square", (56, 56), 36),
        ("portrait", (97, 40), 36),
        ("too_large", (500, 420), 9),
    ],
)
def test_tiles_are_the_official_pixels(name, size, most):
    expected = golden()
    tiles = normalize(cut_picture(picture(*size), 56, most))
    assert find_grid(*size, 56, most)[0] == tuple(expected[f"{name}/grid"].flip(0).tolist())  # theirs is (across, down)
    assert len(tiles) == expected[f"{name}/count"]
    # version 13 of Pillow, with which the golden values were made, resizes some pictures by columns first
    most_off = 0 if int(PIL.__version__.partition(".")[0]) >= 13 else 2.001 / 127.5
    assert (tiles[:7] - expected[f"{name}/tiles"]).abs().max() <= most_off


def test_vanilla_is_one_official_tile():
    vanilla = cut_picture(picture(150, 260), 56, mode="vanilla")
    assert torch.equal(normalize(vanilla), golden()["vanilla"])
    assert torch.equal(cut_picture(picture(150, 260), 56)[:1], vanilla)  # the thumbnail comes first


@pytest.mark.parametrize("size", [(1, 1), (1, 999), (999, 1), (37, 91), (120, 64), (500, 500), (64, 2304)])
@pytest.mark.parametrize("most", [1, 2, 7, 36])
def test_tiles_together_are_the_squashed_canvas(size, most):
    original = random_picture(*size)
    rows, columns = find_grid(*size, 16, most)[0]
    tiles = cut_picture(original, 16, most)
    assert tiles.shape == (1 + rows * columns, 3, 16, 16)
    assert rows * columns <= most
    canvas = to_pil_image(original).resize((columns * 16, rows * 16), Image.Resampling.BICUBIC)
    together = torch.cat([torch.cat(list(row), dim=2) for row in tiles[1:].unflatten(0, (rows, columns))], dim=1)
    assert torch.equal(together, pil_to_tensor(canvas))
    assert torch.equal(split(together, (rows, columns)), tiles[1:])


def test_a_picture_that_fits_is_never_shrunk_and_more_tiles_never_show_less():
    for height, width in ((1, 1), (30, 70), (70, 30), (64, 64), (90, 31)):
        areas = []
        for most in range(1, 37):
            (rows, columns), fits = find_grid(height, width, 16, most)
            assert fits == any(
                rows * 16 >= height and columns * 16 >= width
                for rows in range(1, most + 1)
                for columns in range(1, most // rows + 1)
            )
            if fits:
                assert rows * 16 >= height and columns * 16 >= width
                areas.append(min(rows * 16 / height, columns * 16 / width))
        assert areas == sorted(areas)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 8, 56, 0), "max_tiles 0 must be at least 1"),
        ((8, 8, 0), "tile 0 must be"),
        ((0, 8, 56), "height 0 must be"),
        ((8, -1, 56), "width -1 must be"),
    ],
)
def test_numbers_below_one_are_refused(arguments, message):
    with pytest.raises(OptionError, match=message):
        find_grid(*arguments)


def test_an_unknown_mode_is_refused():
    with pytest.raises(OptionError, match=r"mode 'tiles' is not one of thumb\+tile, vanilla"):
        cut_picture(random_picture(8, 8), 16, mode="tiles")


def test_pixels_become_minus_one_to_one():
    levels = torch.tensor([[0, 255, 51]], dtype=torch.uint8)
    assert torch.equal(normalize(levels), (levels / 255 - 0.5) / 0.5)
    with pytest.raises(OptionError, match=r"torch.float32 are not pixels"):
        normalize(torch.zeros(3))
