"""Tiles of a contact sheet: samples with their labels drawn in, as the loaders deliver them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pe_spatial.data import Polygons, to_bitmaps
from pe_spatial.doctor.check import DatasetCheck, Sample
from pe_spatial.visualization import caption_strip, draw_labels
from pe_spatial.visualization.sheets import fit_tile


def draw_tile(dataset: Any, index: int, sample: Sample | None, checks: Sequence[DatasetCheck]) -> Tensor | None:
    """A captioned picture uint8 [3, H, W] of a sample with its labels; None where there is nothing to see."""
    record = dataset.get_data_info(index)
    name = Path(str(record.get("img_path") or record.get("video", index))).name
    if sample is None or "img" not in sample:
        pictures = (check.draw(record) for check in checks)
        picture = next((picture for picture in pictures if picture is not None), None)
        return None if picture is None else caption_strip(name, fit_tile(picture))
    keys = ("img", "boxes", "labels", "masks", "sem_seg", "depth")
    labeled = {key: sample[key] for key in keys if key in sample}
    if isinstance(labeled.get("masks"), Polygons):
        labeled["masks"] = to_bitmaps(labeled["masks"])
    small = fit_tile(labeled)
    if "depth" in small and (small["depth"] > 0).any():
        measured = small["depth"][small["depth"] > 0]
        share = len(measured) / small["depth"].numel()
        name += f"  {measured.min():.2f}…{measured.max():.2f} m, {share:.0%} measured"
    return caption_strip(name, draw_labels(small, dataset.metainfo))
