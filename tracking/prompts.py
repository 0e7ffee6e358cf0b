"""Masks from boxes and points: directly, or by SAM 2."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.registry import MODELS
from torch import Tensor

from pe_spatial.backbones.sam2_model import SAM2_SIZES, build_sam2
from pe_spatial.common.errors import OptionError

Boxes = Mapping[int, Sequence[float]]  # object number -> x1, y1, x2, y2 in pixels
Points = Mapping[int, Sequence[tuple[float, float, bool]]]  # object number -> x, y, whether on the object


class Prompter(Protocol):
    """Draws one mask of several objects."""

    def __call__(self, frame: Tensor, boxes: Boxes, points: Points) -> Tensor:
        """Return int64 [H, W] with the numbers of the objects for a frame uint8 [3, H, W]."""


@MODELS.register_module()
class BoxPrompter:
    """Takes a box for the object, and for points a small square around each point on the object.

    Args:
        point_size: Side of that square in pixels; the tracker then follows that part of the object.
    """

    def __init__(self, point_size: int = 32) -> None:
        if point_size < 1:
            raise OptionError(f"point_size {point_size} is not a positive number of pixels")
        self.point_size = point_size

    def __call__(self, frame: Tensor, boxes: Boxes, points: Points) -> Tensor:
        """Draw; where objects overlap, the smaller one lies on top.

        Raises:
            OptionError: a box without area in the frame, a point outside it, an object without a point on it, or one
                that others cover.
        """
        size = (frame.shape[-2], frame.shape[-1])
        check_prompts(size, boxes, points)
        mask = torch.zeros(size, dtype=torch.int64)
        for number, (x1, y1, x2, y2) in sorted(boxes.items(), key=lambda item: -_area(item[1])):
            mask[max(round(y1), 0) : round(y2), max(round(x1), 0) : round(x2)] = number
        half = self.point_size / 2
        for number, marks in points.items():
            for x, y, on_object in marks:
                if on_object:
                    rows = slice(max(round(y - half), 0), max(round(y + half), 1))
                    mask[rows, max(round(x - half), 0) : max(round(x + half), 1)] = number
        if hidden := sorted({*boxes, *points} - set(mask.unique().tolist())):
            raise OptionError(
                f"object {hidden[0]} is less than a pixel, or the other objects cover all of it; give another box"
            )
        return mask


@MODELS.register_module()
class Sam2Prompter:
    """Takes the mask that SAM 2.1 draws for the boxes and points; needs the package `sam2`.

    Args:
        weights: a checkpoint `sam2.1_hiera_*.pt` on this machine.
        size: `tiny`, `small`, `base_plus` or `large`; None reads it from the name of the file.
        device: Where SAM 2 runs.

    Raises:
        OptionError: The size is not known.
        FileNotFoundError: There is no such file.
        ModuleNotFoundError: `sam2` is not installed.
    """

    def __init__(self, weights: str, size: str | None = None, device: str = "cpu") -> None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no SAM 2 weights at {weights}; give the path of a sam2.1_hiera_*.pt file")
        size = size or next((name for name in SAM2_SIZES if name in path.stem), None)
        if size not in SAM2_SIZES:
            raise OptionError(
                f"the size of SAM 2 is not in the name of {path.name}; set size to one of {[*SAM2_SIZES]}"
            )
        model = build_sam2(size, path).to(device)
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        self.predictor = SAM2ImagePredictor(model)

    @torch.no_grad()
    def __call__(self, frame: Tensor, boxes: Boxes, points: Points) -> Tensor:
        """Draw; where objects overlap, the smaller one lies on top.

        Raises:
            OptionError: a box without area in the frame, a point outside it, an object without a point on it, or one of
                which SAM 2 finds nothing.
        """
        size = (frame.shape[-2], frame.shape[-1])
        check_prompts(size, boxes, points)
        self.predictor.set_image(frame.permute(1, 2, 0).cpu().numpy())
        masks = {number: self._draw(boxes.get(number), points.get(number, ())) for number in {*boxes, *points}}
        empty = [number for number, mask in masks.items() if not mask.any()]
        if empty:
            raise OptionError(
                f"SAM 2 finds nothing at the prompts of object {empty[0]}; move the prompts, or give a mask"
            )
        result = torch.zeros(size, dtype=torch.int64)
        for number in sorted(masks, key=lambda number: -int(masks[number].sum())):
            result[masks[number]] = number
        return result

    def _draw(self, box: Sequence[float] | None, marks: Sequence[tuple[float, float, bool]]) -> Tensor:
        places = torch.tensor([mark[:2] for mark in marks], dtype=torch.float32).numpy() if marks else None
        kinds = torch.tensor([int(mark[2]) for mark in marks]).numpy() if marks else None
        masks, _, _ = self.predictor.predict(
            point_coords=places,
            point_labels=kinds,
            box=None if box is None else torch.tensor(list(box)).numpy(),
            multimask_output=False,
        )
        return torch.from_numpy(masks[0] > 0)


def check_prompts(size: tuple[int, int], boxes: Boxes, points: Points) -> None:
    """Refuse boxes and points that cannot mean an object on a frame of `size` (H, W); warn of what they seem to be.

    Raises:
        OptionError: An object number outside 1…255, a box or a point without area in the frame, or one in other units.
    """
    height, width = size
    for number in {*boxes, *points}:
        if not 1 <= number <= 255:
            raise OptionError(f"object number {number} is outside 1…255")
    for number, (x1, y1, x2, y2) in boxes.items():
        if 0 <= min(x1, y1, x2, y2) <= max(x1, y1, x2, y2) <= 1:
            pixels = [round(x1 * width), round(y1 * height), round(x2 * width), round(y2 * height)]
            raise OptionError(
                f"box {[x1, y1, x2, y2]} of object {number} is smaller than a pixel; is it normalized to 0…1? Boxes "
                f"must be in pixels, that would be {pixels}"
            )
        is_xywh = (x2 <= x1 or y2 <= y1) and 0 < x2 <= width - x1 and 0 < y2 <= height - y1
        meant = f"; x,y,width,height? That would be {[x1, y1, x1 + x2, y1 + y2]}" if is_xywh else ""
        if not (max(x1, 0) < min(x2, width) and max(y1, 0) < min(y2, height)):
            raise OptionError(
                f"box {[x1, y1, x2, y2]} of object {number} has no area in a frame of {width} x {height}; give "
                f"x1,y1,x2,y2 in pixels with x1 < x2 and y1 < y2{meant}"
            )
        if min(x1, y1) < -1 or x2 > width + 1 or y2 > height + 1:
            warnings.warn(
                f"box {[x1, y1, x2, y2]} of object {number} leaves the frame of {width} x {height} and is cut there: "
                "x1,y1,x2,y2 in pixels of this video?",
                stacklevel=3,
            )
    for number, marks in points.items():
        for x, y, _ in marks:
            if not (0 <= x < width and 0 <= y < height):
                raise OptionError(f"point ({x}, {y}) of object {number} is outside the frame of {width} x {height}")
            if 0 < x < 1 and 0 < y < 1:
                warnings.warn(
                    f"point ({x}, {y}) of object {number} is in the first pixel; is it normalized to 0…1? Points "
                    f"must be in pixels, that would be ({round(x * width)}, {round(y * height)})",
                    stacklevel=3,
                )
        if number not in boxes and not any(on_object for _, _, on_object in marks):
            raise OptionError(f"object {number} has no positive point; give at least one, or a box")


def numbered_boxes(boxes: Boxes | Sequence[Any] | None) -> dict[int, list[float]]:
    """Boxes by object number; those of a list [N, 4], or a single one, are numbered from 1.

    Raises:
        OptionError: One has not four numbers.
    """
    if boxes is None:
        return {}
    if isinstance(boxes, Mapping):
        items = list(boxes.items())
    else:
        listed = boxes.tolist() if hasattr(boxes, "tolist") else list(boxes)
        single = len(listed) == 4 and all(isinstance(side, int | float) for side in listed)
        items = list(enumerate([listed] if single else listed, start=1))
    result: dict[int, list[float]] = {}
    for number, box in items:
        try:
            corners = [float(side) for side in box]
        except (TypeError, ValueError):
            corners = []
        if len(corners) != 4 or not all(map(math.isfinite, corners)):
            raise OptionError(f"box {box} of object {number} is not x1, y1, x2, y2 in pixels")
        result[number] = corners
    return result


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
