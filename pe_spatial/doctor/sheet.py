"""A contact sheet: samples with their labels drawn in, as the loaders deliver them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.utils import make_grid

from pe_spatial.common.pictures import save_image
from pe_spatial.data import KeepRatioResize, Polygons, to_bitmaps
from pe_spatial.doctor.check import DatasetCheck, Sample
from pe_spatial.visualization import caption_strip, draw_labels

_SHRINK = KeepRatioResize(480, 1280)  # small images grow, too: labels can be read
_COLUMNS = 4


def draw_tile(dataset: Any, index: int, sample: Sample | None, checks: Sequence[DatasetCheck]) -> Tensor | None:
    """A captioned picture uint8 [3, H, W] of a sample with its labels; None where there is nothing to see."""
    record = dataset.get_data_info(index)
    name = Path(str(record.get("img_path") or record.get("video", index))).name
    if sample is None or "img" not in sample:
        pictures = (check.draw(record) for check in checks)
        picture = next((picture for picture in pictures if picture is not None), None)
        return None if picture is None else caption_strip(name, _SHRINK(picture))
    keys = ("img", "boxes", "labels", "masks", "sem_seg", "depth")
    labeled = {key: sample[key] for key in keys if key in sample}
    if isinstance(labeled.get("masks"), Polygons):
        labeled["masks"] = to_bitmaps(labeled["masks"])
    small = _SHRINK(labeled)
    if "depth" in small and (small["depth"] > 0).any():
        measured = small["depth"][small["depth"] > 0]
        share = len(measured) / small["depth"].numel()
        name += f"  {measured.min():.2f}…{measured.max():.2f} m, {share:.0%} measured"
    return caption_strip(name, draw_labels(small, dataset.metainfo))


def save_sheet(path: Path, title: str, tiles: Sequence[Tensor]) -> None:
    """Write the pictures of one dataset as a PNG."""
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (1, 2))
    equal = [F.pad(tile, [0, 0, width - tile.shape[2], height - tile.shape[1]], fill=255) for tile in tiles]
    save_image(path, caption_strip(title, make_grid(equal, nrow=_COLUMNS, padding=8, pad_value=255)))
