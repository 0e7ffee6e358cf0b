"""A contact sheet: pictures of several samples or files on one page."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.utils import make_grid

from pe_spatial.common.pictures import save_image
from pe_spatial.data import KeepRatioResize
from pe_spatial.visualization.layout import caption_strip

fit_tile = KeepRatioResize(480, 1280)  # small images grow, too: labels can be read
_COLUMNS = 4


def save_sheet(path: Path, title: str, tiles: Sequence[Tensor]) -> None:
    """Write captioned pictures uint8 [3, H, W] as one PNG."""
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (1, 2))
    equal = [F.pad(tile, [0, 0, width - tile.shape[2], height - tile.shape[1]], fill=255) for tile in tiles]
    save_image(path, caption_strip(title, make_grid(equal, nrow=_COLUMNS, padding=8, pad_value=255)))
