"""A contact sheet: samples with their labels drawn in, as the loaders deliver them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.pictures import save_image
from pe_spatial.data.sample import IGNORE_LABEL
from pe_spatial.doctor.check import DatasetCheck, Sample
from pe_spatial.visualization import colorize_depth, draw_boxes, overlay_masks, palette

_SIZE = (288, 384)  # (H, W) of a picture on the sheet
_LINE = 18
_COLUMNS = 4
_MARGIN = 8

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Tile:
    """A picture uint8 [3, H, W], its caption, and what its colors mean."""

    picture: Tensor
    caption: str
    legend: Sequence[tuple[Color, str]]


def draw_tile(dataset: Any, index: int, sample: Sample | None, checks: Sequence[DatasetCheck]) -> Tile | None:
    """A sample of a dataset with its labels; None where there is nothing to see."""
    record = dataset.get_data_info(index)
    name = Path(str(record.get("img_path") or record.get("video", index))).name
    if sample is None or "img" not in sample:
        pictures = (check.draw(record) for check in checks)
        picture = next((picture for picture in pictures if picture is not None), None)
        return None if picture is None else Tile(_fit(picture), name, ())
    keys = ("img", "boxes", "labels", "masks", "sem_seg", "depth")
    small = _shrink({key: sample[key] for key in keys if key in sample})
    classes = list(dataset.metainfo.get("classes", ()))
    picture = small["img"].as_subclass(Tensor)
    legend: list[tuple[Color, str]] = []
    if "sem_seg" in small:
        picture, legend = _draw_semantic(picture, small["sem_seg"][0].as_subclass(Tensor), dataset.metainfo)
    if "boxes" in small:
        picture = _draw_instances(picture, small, classes, tint="sem_seg" not in small)
    if "depth" in small:
        depth = small["depth"].as_subclass(Tensor)
        picture = _fit(torch.cat([picture, colorize_depth(depth)], dim=-1))
        measured = depth[depth > 0]
        if len(measured):
            share = len(measured) / depth.numel()
            name += f"  {measured.min():.2f}…{measured.max():.2f} m, {share:.0%} measured"
    return Tile(picture, name, legend)


def _shrink(sample: Sample) -> Sample:
    """To the size of a picture on the sheet; small images grow, too."""
    return v2.Resize(_inside(sample["img"].shape[-2:]), antialias=True)(sample)


def _inside(size: Sequence[int]) -> list[int]:
    factor = min(limit / side for limit, side in zip(_SIZE, size, strict=True))
    return [max(1, round(side * factor)) for side in size]


def _fit(picture: Tensor) -> Tensor:
    return F.resize(picture, _inside(picture.shape[-2:]), antialias=True)


def _draw_semantic(picture: Tensor, labels: Tensor, metainfo: Any) -> tuple[Tensor, list[tuple[Color, str]]]:
    """Tint the classes in their colors; what has no label becomes gray and dark."""
    classes = metainfo.get("classes", ())
    colors = torch.zeros(IGNORE_LABEL + 1, 3)
    own = torch.as_tensor(metainfo.get("palette") or palette(len(classes) + 1)[1:])
    colors[: len(own)] = own.float()
    tint = colors[labels].permute(2, 0, 1)  # [3, H, W]
    gray = picture.float().mean(0, keepdim=True).expand(3, -1, -1) * 0.4
    tinted = torch.where(labels == IGNORE_LABEL, gray, 0.45 * picture + 0.55 * tint).round().to(torch.uint8)
    present, areas = labels[labels != IGNORE_LABEL].unique(return_counts=True)
    legend: list[tuple[Color, str]] = []
    for label in present[areas.argsort(descending=True)].tolist():
        red, green, blue = (int(c) for c in colors[label])
        legend.append(((red, green, blue), classes[label] if label < len(classes) else str(label)))
    return tinted, legend


def _draw_instances(picture: Tensor, sample: Sample, classes: Sequence[str], tint: bool) -> Tensor:
    labels = sample["labels"].tolist()
    if tint and "masks" in sample:
        picture = overlay_masks(picture, sample["masks"].as_subclass(Tensor), labels)
    captions = [classes[label] if label < len(classes) else str(label) for label in labels]
    return draw_boxes(picture, sample["boxes"].as_subclass(Tensor), captions, labels)


def save_sheet(path: Path, title: str, tiles: Sequence[Tile]) -> None:
    """Write the tiles of one dataset as a PNG."""
    rows = [tiles[start : start + _COLUMNS] for start in range(0, len(tiles), _COLUMNS)]
    # caption and, where there is one, a legend of two lines below the highest picture of a row
    heights = [
        max(tile.picture.shape[-2] + _LINE * (3 if tile.legend else 1) for tile in row) + _MARGIN for row in rows
    ]
    width = max(tile.picture.shape[-1] for tile in tiles) + _MARGIN
    sheet = Image.new("RGB", (max(len(rows[0]) * width + _MARGIN, _SIZE[1]), sum(heights) + 2 * _LINE), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    draw.text((_MARGIN, 6), title, font=ImageFont.load_default(size=15), fill="black")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, _COLUMNS)
        left, top = _MARGIN + column * width, 2 * _LINE + sum(heights[:row])
        sheet.paste(Image.fromarray(tile.picture.permute(1, 2, 0).contiguous().numpy()), (left, top))
        below = top + tile.picture.shape[-2] + 3
        draw.text((left, below), _shorten(draw, tile.caption, font, width - _MARGIN), font=font, fill="black")
        _write_legend(draw, (left, below + _LINE), width - _MARGIN, tile.legend, font)
    save_image(path, sheet)


def _shorten(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    while len(text) > 1 and draw.textlength(text, font=font) > width:
        text = f"{text[:-2]}…"
    return text


def _write_legend(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], width: int, legend: Sequence[tuple[Color, str]], font: Any
) -> None:
    """As many of the largest classes as fit on two lines."""
    left, top = place
    x, y = left, top
    for color, name in legend:
        needed = int(16 + draw.textlength(name, font=font) + 10)
        if x + needed > left + width:
            x, y = left, y + _LINE
            if y > top + _LINE:
                return
        draw.rectangle((x, y + 3, x + 11, y + 14), fill=color, outline="black")
        draw.text((x + 16, y), name, font=font, fill="black")
        x += needed
