import pytest
import torch

from pe_spatial.tracking.resizing import Resizing

DINO = Resizing(short_side=480, long_multiple=64)


@pytest.mark.parametrize(
    ("resizing", "frame", "patch", "expected"),
    [
        (DINO, (480, 854), 16, (480, 832)),  # the script's own size for DAVIS
        (DINO, (854, 480), 16, (832, 480)),
        (DINO, (480, 480), 16, (480, 480)),  # the script floors one side of a square frame and breaks
        (DINO, (480, 854), 14, (476, 826)),  # 34 x 59 tokens, as the script, without a cut
        (Resizing(short_side=480, rounding="up"), (480, 854), 16, (480, 864)),
        (Resizing(short_side=420, rounding="up"), (480, 854), 14, (420, 756)),
        (Resizing(short_side=100, rounding="up"), (480, 640), 16, (112, 160)),
        (Resizing(tokens=32), (480, 854), 14, (448, 448)),
        (Resizing(tokens=32), (480, 854), 16, (512, 512)),
    ],
)
def test_sizes(resizing, frame, patch, expected):
    assert resizing.size(frame, patch) == expected
    assert resizing(torch.zeros(3, *frame, dtype=torch.uint8), patch).shape == (3, *expected)


@pytest.mark.parametrize("rounding", ["down", "up"])
@pytest.mark.parametrize("patch", [8, 14, 16])
def test_any_frame_gives_whole_patches_near_its_aspect(rounding, patch):
    for frame in [(33, 1000), (721, 1283), (1, 1), (1080, 607)]:
        height, width = Resizing(short_side=160, rounding=rounding).size(frame, patch)
        assert height % patch == width % patch == 0
        assert min(height, width) == (160 // patch + (rounding == "up" and 160 % patch > 0)) * patch
        assert abs(max(height, width) - min(height, width) * max(frame) / min(frame)) < patch * max(frame) / min(frame)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one"),
        ({"short_side": 480, "tokens": 32}, "exactly one"),
        ({"short_side": 0}, "positive"),
        ({"tokens": 32, "rounding": "off"}, "down, up"),
        ({"tokens": 32, "interpolation": "lanczos5"}, "lanczos5"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Resizing(**options)
    with pytest.raises(ValueError, match="smaller than a patch"):
        Resizing(short_side=10).size((480, 854), 16)
