"""Predicted class maps and segments as files: indexed PNGs, overlays, and lists with the area of every class."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from torch import Tensor

from pe_spatial.common.files import put_in_place, write_json_stream
from pe_spatial.common.pictures import save_image
from pe_spatial.common.records import Records
from pe_spatial.inference.predictor import Recipe
from pe_spatial.inference.sample import checked_threshold, instance_rows
from pe_spatial.inference.tasks import Task, register_task
from pe_spatial.inference.writer import ResultsWriter
from pe_spatial.segmentation.predictor import SegmentationPredictor
from pe_spatial.segmentation.windows import check_window
from pe_spatial.visualization import class_colors, draw_prediction

_AT_ONCE = 2**20  # pixels that are counted at a time

KINDS = {"pred_sem_seg": "labels", "pred_confidence": "confidence", "pred_panoptic": "panoptic"}


class SegmentationWriter(ResultsWriter):
    """Writes the class maps and segments of a run of `pe-spatial predict`.

    The folders mirror the input; the frames of a video are in a folder of its name. All PNGs have the original size.

    * `labels/<name>.png`: one index per pixel, the row of its class in `classes` of `segmentation.json`. The
      palette holds the colors (more than 256 classes: 16 bits, no palette).
    * `confidence/<name>.png`: the probability of that class, 255 for 1.
    * `probabilities/<name>.npy`: those of all classes, float16 [H, W, K].
    * `panoptic/<name>.png` and `panoptic.json`: COCO's panoptic format; an id is R + 256 G + 65536 B, 0 for none.
    * `segmentation.json`: the pixels of every class, by file and in total, and of a model of objects the
      `instances`: label, score, box [x, y, width, height] and mask as compressed RLE.

    The metainfo of the predictor has `classes` and optionally `palette` [[r, g, b], …], `is_thing` by class, and
    `category_ids` of COCO's format where they do not count from 1. Instances that score less than the option
    `threshold` are left out.
    """

    result = "segmentation.json"
    places = ("panoptic.json", "labels", "confidence", "probabilities", "panoptic")

    def __init__(
        self, records: Records, stems: Mapping[str, str], predictor: SegmentationPredictor, options: Namespace
    ) -> None:
        self.threshold = checked_threshold(options.threshold)
        self.classes: Sequence[str] = predictor.metainfo["classes"]
        self.colors = class_colors(self.classes, predictor.metainfo.get("palette"))
        super().__init__(records, stems, predictor, options, predictor.kinds)
        things = getattr(predictor.model, "things", ())
        is_thing = [label in things for label in range(predictor.model.num_classes)]
        self.metainfo = {"is_thing": is_thing, **self.metainfo}

    def describe(self, stem: str, image: Tensor, sample: BaseDataElement, frame: int | None) -> dict[str, Any]:
        """Write the maps; of `sample` see `pe_spatial.segmentation.semantic`."""
        record: dict[str, Any] = {"height": image.shape[-2], "width": image.shape[-1]}
        for field, kind in KINDS.items():
            if kind in self.kinds:
                record[kind] = f"{kind}/{stem}.png"
                self._save(self.folder / record[kind], kind, sample.get(field).data[0].numpy())
        if "probabilities" in self.kinds:
            record["probabilities"] = f"probabilities/{stem}.npy"
            place = self.folder / record["probabilities"]
            place.parent.mkdir(parents=True, exist_ok=True)
            put_in_place(sample.probabilities, place)
        counts = np.zeros(len(self.classes), np.int64)
        if "pred_panoptic" in sample:
            record["segments"] = describe_segments(sample.pred_panoptic.data[0].numpy(), sample.segments)
            for segment in record["segments"]:
                counts[segment["label"]] += segment["area"]
        if "pred_sem_seg" in sample:
            counts = count_labels(sample.pred_sem_seg.data[0].numpy(), len(self.classes))
        if "pred_instances" in sample:
            found = sample.pred_instances
            record["instances"] = instance_rows(found[found.scores >= self.threshold])
        record["pixels"] = {self.classes[k]: int(counts[k]) for k in np.flatnonzero(counts).tolist()}
        return record

    def _save(self, path: Path, kind: str, values: NDArray[Any]) -> None:
        if kind == "panoptic":
            of_bytes = np.ascontiguousarray(values, "<i4").view(np.uint8).reshape(*values.shape, 4)
            values = cv2.cvtColor(of_bytes, cv2.COLOR_RGBA2RGB)  # a sixth of the time that a slice takes
        elif kind == "labels":
            values = values.astype(np.uint16 if len(self.classes) > 256 else np.uint8, copy=False)
        has_palette = kind == "labels" and len(self.classes) <= 256
        save_image(path, values, colors=self.colors if has_palette else None)

    def draw(self, image: Tensor, sample: BaseDataElement, frame: int | None) -> Tensor:
        """The image tinted by class, with a legend; of a large image a smaller one."""
        return draw_prediction(image, sample, self.metainfo, self.threshold, self.longest)

    def write_lists(self) -> None:
        """Write `segmentation.json` and, of a model of segments, `panoptic.json`."""
        total: dict[str, int] = dict.fromkeys(self.classes, 0)
        everything = 0
        for record in self.records.contents():
            everything += record["height"] * record["width"]
            for name, pixels in record["pixels"].items():
                total[name] += pixels
        content = {
            "run": self.records.run,
            "classes": [
                {"index": index, "name": name, "color": list(color)}
                for index, (name, color) in enumerate(zip(self.classes, self.colors, strict=True))
            ],
            "total": [{"name": name, "pixels": n, "share": round(n / everything, 6)} for name, n in total.items() if n],
            "files": self.records.contents(),
        }
        if "panoptic" in self.kinds:
            write_json_stream(
                self.folder / "panoptic.json", coco_panoptic(self.records.contents, self.metainfo, self.colors)
            )
        write_json_stream(self.folder / self.result, content)


def count_labels(labels: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """Pixels of every class [K] of a map [H, W], from its runs of one class, which are few."""
    counts = np.zeros(num_classes)
    for rows in np.array_split(labels, max(labels.size // _AT_ONCE, 1)):
        flat = rows.ravel()
        borders = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [len(flat)]])
        counts += np.bincount(flat[borders[:-1]], np.diff(borders), num_classes)
    return counts.astype(np.int64)


def describe_segments(ids: NDArray[Any], segments: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Segments of a map of ids [H, W] with their boxes [x, y, width, height], for JSON."""
    boxes = boxes_of_ids(ids)
    described = []
    for segment in segments:
        x1, y1, x2, y2 = boxes.get(int(segment["id"]), (0, 0, 0, 0))
        described.append(
            {
                "id": int(segment["id"]),
                "label": int(segment["label"]),
                "score": round(float(segment["score"]), 5),
                "area": int(segment["area"]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
        )
    return described


def boxes_of_ids(ids: NDArray[Any]) -> dict[int, tuple[int, int, int, int]]:
    """The smallest box (x1, y1, x2, y2) around the pixels of every number in a map [H, W], in one pass over it."""
    height, width = ids.shape
    starts = np.ones((height, width), bool)  # of runs along rows
    np.not_equal(ids[:, 1:], ids[:, :-1], out=starts[:, 1:])
    first = np.flatnonzero(starts)
    last = np.append(first[1:], height * width) - 1
    names, number = np.unique(ids.ravel()[first], return_inverse=True)
    low = np.full((2, len(names)), max(height, width))
    high = np.zeros((2, len(names)), np.int64)
    for side, (begin, end) in enumerate(((first % width, last % width), (first // width, first // width))):
        np.minimum.at(low[side], number, begin)
        np.maximum.at(high[side], number, end + 1)
    rows = zip(names.tolist(), *low.tolist(), *high.tolist(), strict=True)
    return {name: (x1, y1, x2, y2) for name, x1, y1, x2, y2 in rows}


def coco_panoptic(
    records: Callable[[], Iterable[Mapping[str, Any]]], metainfo: Mapping[str, Any], colors: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Records with `segments` in COCO's panoptic format; the PNGs are relative to the folder `panoptic`.

    Args:
        records: Begins to read them.
        metainfo: Of the model.
        colors: Of the classes.
    """
    classes = metainfo["classes"]
    numbers = metainfo.get("category_ids") or range(1, len(classes) + 1)
    things = metainfo.get("is_thing") or [False] * len(classes)
    categories = zip(numbers, classes, things, colors, strict=True)
    keys = ("file_name", "height", "width", "frame")

    def annotations() -> Iterator[dict[str, Any]]:
        for image_id, record in enumerate(records(), start=1):
            infos = [
                {**{key: value for key, value in segment.items() if key != "label"}, "iscrowd": 0}
                | {"category_id": int(numbers[segment["label"]])}
                for segment in record["segments"]
            ]
            place = record["panoptic"].partition("/")[2]
            yield {"image_id": image_id, "file_name": place, "segments_info": infos}

    return {
        "images": (
            {"id": image_id, **{key: record[key] for key in keys if key in record}}
            for image_id, record in enumerate(records(), start=1)
        ),
        "annotations": annotations(),
        "categories": [
            {"id": int(number), "name": name, "isthing": int(is_thing), "color": list(color)}
            for number, name, is_thing, color in categories
        ],
    }


def _predictor(checkpoint: Path | Recipe, options: Namespace) -> SegmentationPredictor:
    window = None
    if options.window is not None:
        side, stride = options.window
        window = check_window((side, side), (stride, stride))
    scratch = options.output / "probabilities" if options.probabilities else None
    given = (options.device, options.batch_size, options.overrides)
    predictor = SegmentationPredictor(checkpoint, *given, engine=options.engine, precision=options.precision)
    return predictor.configure(window, options.confidence, scratch)


register_task(
    Task("segmentation", SegmentationWriter, _predictor, ("threshold", "window"), ("confidence", "probabilities"))
)
