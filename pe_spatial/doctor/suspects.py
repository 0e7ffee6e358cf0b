"""Labels that a trained model contradicts: what is suspected, in words, as entries of a list, and as pictures."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from pe_spatial.data.loading import decode_mask
from pe_spatial.doctor.findings import Finding
from pe_spatial.visualization import caption_strip, draw_boxes, enlarge, overlay_masks

# what is said of each kind
KINDS = {
    "class": "objects that the model takes for another class",
    "box": "boxes that the model places elsewhere",
    "mask": "masks that the model shapes otherwise",
    "spurious": "annotated objects where the model sees none",
    "missing": "objects that the model sees and nobody annotated",
}
LIKELY = 0.5  # suspects from this score on are findings
_MARGIN = 0.6  # of the longer side of the boxes, around them
_ANNOTATED, _PREDICTED = 0, 1  # numbers of colors
_TILE = 480  # pixels


@dataclass(frozen=True)
class Suspect:
    """One label, or one place without a label, that the model contradicts.

    Args:
        kind: A key of `KINDS`.
        score: From 0 to 1; how much the model contradicts it.
        sample: Number of the image in its dataset.
        row: Number of the annotation among the `instances` of that image; None where there is none.
        label: Class of the annotation.
        box: [x1, y1, x2, y2] of the annotation in pixels.
        predicted_label: Class that the model says.
        predicted_box: [x1, y1, x2, y2] of the model's.
        confidence: Of the model, from 0 to 1.
        iou: Of the boxes, or of the masks where these differ.
        predicted_mask: Compressed RLE, where the masks differ.
    """

    kind: str
    score: float
    sample: int
    row: int | None = None
    label: str | None = None
    box: list[float] | None = None
    predicted_label: str | None = None
    predicted_box: list[float] | None = None
    confidence: float | None = None
    iou: float | None = None
    predicted_mask: dict[str, Any] | None = None

    def weighed(self, factor: float) -> "Suspect":
        """The same with its score multiplied."""
        return replace(self, score=self.score * factor)

    def reason(self) -> str:
        """Why, in a few words."""
        annotated = f"annotated {self.label}" if self.label else "nothing annotated"
        model = f"model {self.predicted_label} {self.confidence:.2f}" if self.predicted_label else "model sees nothing"
        if self.iou is None:
            return f"{annotated}, {model}"
        return f"{annotated}, {model}, {'masks' if self.kind == 'mask' else 'boxes'} IoU {self.iou:.2f}"


def findings_of(suspects: Iterable[Suspect], dataset: Any) -> Iterator[Finding]:
    """A warning for every likely suspect."""
    for suspect in suspects:
        if suspect.score >= LIKELY:
            record = dataset.get_data_info(suspect.sample)
            place = suspect.box or suspect.predicted_box
            numbers = [round(value) for value in place or ()]
            image = f"{record.get('img_path')}{_entry(suspect, record)}"
            example = f"{image}: {suspect.score:.2f}, {suspect.reason()}, at {numbers} (xyxy)"
            yield Finding("warning", KINDS[suspect.kind], example)


def as_json(suspect: Suspect, dataset: Any) -> dict[str, Any]:
    """An entry of the list: boxes [x, y, width, height] as in COCO's format; absent values are left out.

    `annotation` counts the annotations of the image from 0, in the order of the file, without those that the dataset
    leaves out; `annotation_id` is the file's, where the dataset keeps it.
    """
    record = dataset.get_data_info(suspect.sample)
    entry = {
        "kind": suspect.kind,
        "score": round(suspect.score, 4),
        "reason": suspect.reason(),
        "image": str(record.get("img_path")),
        "image_id": record.get("img_id"),
        "annotation": suspect.row,
        "annotation_id": _annotation_id(suspect, record),
        "label": suspect.label,
        "bbox": _width_height(suspect.box),
        "predicted_label": suspect.predicted_label,
        "predicted_bbox": _width_height(suspect.predicted_box),
        "predicted_segmentation": suspect.predicted_mask,
        "confidence": None if suspect.confidence is None else round(suspect.confidence, 4),
        "iou": None if suspect.iou is None else round(suspect.iou, 4),
    }
    return {key: value for key, value in entry.items() if value is not None}


def _annotation_id(suspect: Suspect, record: Mapping[str, Any]) -> int | None:
    """The id of the annotation in the user's file."""
    return None if suspect.row is None else record["instances"][suspect.row].get("id")


def _entry(suspect: Suspect, record: Mapping[str, Any]) -> str:
    """What to look for in the user's file."""
    number = _annotation_id(suspect, record)
    return "" if number is None else f" annotation {number}"


def _width_height(box: list[float] | None) -> list[float] | None:
    if box is None:
        return None
    x1, y1, x2, y2 = box
    return [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]


def draw_suspect(
    number: int, suspect: Suspect, image: Tensor, record: Mapping[str, Any], mask: Tensor | None
) -> Tensor:
    """The surroundings of a suspect with the annotation and the prediction, below two lines that say why.

    Args:
        number: Its rank, from 1.
        suspect: To be drawn.
        image: uint8 [3, H, W].
        record: Of the image in its dataset.
        mask: bool [H, W] of the annotation, if it has one.

    Returns:
        uint8 [3, H', W'], equal for all suspects.
    """
    marked = [
        (torch.tensor(box), f"{who}: {label}", color)
        for box, who, label, color in (
            (suspect.box, "annotated", suspect.label, _ANNOTATED),
            (suspect.predicted_box, "model", suspect.predicted_label, _PREDICTED),
        )
        if box is not None
    ]
    boxes = torch.stack([box for box, _, _ in marked])  # [1 or 2, 4]
    picture = image.as_subclass(Tensor)
    if suspect.predicted_mask is not None and mask is not None:
        size = (int(image.shape[-2]), int(image.shape[-1]))
        predicted = torch.from_numpy(decode_mask(suspect.predicted_mask, size))
        picture = overlay_masks(picture, torch.stack([mask, predicted]), [_ANNOTATED, _PREDICTED], opacity=0.25)
    left, top, right, bottom = _window(boxes, picture.shape[-2:])
    crop, factor = enlarge(picture[:, top:bottom, left:right])
    drawn = draw_boxes(
        crop,
        (boxes - torch.tensor([left, top, left, top])) * factor,
        [caption for _, caption, _ in marked],
        [color for _, _, color in marked],
    )
    square = _fit(drawn)
    name = f"{Path(str(record.get('img_path'))).name}{_entry(suspect, record)}"
    return caption_strip(
        f"{number}. {suspect.kind} {suspect.score:.2f}  {name}", caption_strip(suspect.reason(), square)
    )


def _window(boxes: Tensor, size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part xyxy of an image of (H, W) that shows boxes [N, 4] and what is around them."""
    low, high = boxes[:, :2].min(0).values, boxes[:, 2:].max(0).values
    reach = ((high - low).max() * (0.5 + _MARGIN)).clamp(min=16)
    center = (low + high) / 2
    left, top = (max(int(value), 0) for value in (center - reach).tolist())
    right, bottom = (
        min(int(value) + 1, side) for value, side in zip((center + reach).tolist(), (size[1], size[0]), strict=True)
    )
    return min(left, size[1] - 1), min(top, size[0] - 1), max(right, 1), max(bottom, 1)


def _fit(picture: Tensor) -> Tensor:
    """A picture in a white square."""
    scale = _TILE / max(picture.shape[-2:])
    height, width = (max(round(side * scale), 1) for side in picture.shape[-2:])
    resized = F.resize(picture, [height, width])
    return F.pad(resized, [0, 0, _TILE - width, _TILE - height], fill=255)
