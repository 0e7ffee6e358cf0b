"""COCO's average precision against pycocotools: `pe-spatial benchmark coco`."""

import argparse
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pe_spatial.commands.benchmark.measuring import clock_of, median_ratio, show, take_turns, timed
from pe_spatial.detection.average_precision import average_precision

SIDE = 640  # of the images in pixels
_SHIFT = 8.0  # standard deviation of a found box in pixels

Truth = dict[str, Any]
Rows = list[dict[str, Any]]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Score the same boxes with both in turns, show and return the figures."""
    truth, rows = synthetic_boxes(options.images, options.objects, options.detections, options.classes)
    scores: dict[str, list[float]] = {}
    clock = clock_of("cpu", options.clock)

    def score(name: str, way: Callable[[Truth, Rows], list[float]], _: int) -> float:
        def work() -> None:
            scores[name] = way(truth, rows)

        return timed(work, clock)

    ways = {"ours": our_scores, "pycocotools": their_scores}
    seconds = take_turns({name: partial(score, name, way) for name, way in ways.items()}, options.rounds)
    setting = {"images": options.images, "objects": len(truth["annotations"]), "detections": len(rows)}
    figures = {f"{name}_s": statistics.median(times) for name, times in seconds.items()}
    figures["ratio"] = median_ratio(*seconds.values())
    figures["difference"] = float(np.abs(np.subtract(scores["ours"], scores["pycocotools"])).max())
    show(setting)
    show(figures)
    return {**setting, **figures}


def synthetic_boxes(images: int, objects: int, detections: int, classes: int) -> tuple[Truth, Rows]:
    """A truth and results in COCO's formats: most objects are found nearly where they are, and as many are invented.

    Args:
        images: Images.
        objects: In each image.
        detections: In each image.
        classes: Classes.
    """
    generator = np.random.default_rng(0)
    annotations: Rows = []
    rows: Rows = []
    for image in range(1, images + 1):
        sides = generator.uniform(8, 256, (objects, 2))
        boxes = np.concatenate([generator.uniform(0, SIDE - sides), sides], 1).round(2)
        labels = generator.integers(1, classes + 1, objects)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            base = {"id": len(annotations) + 1, "image_id": image, "category_id": label, "iscrowd": 0}
            annotations.append({**base, "bbox": box, "area": box[2] * box[3]})
        chosen = generator.integers(0, objects, detections)
        found = np.abs(boxes[chosen] + generator.normal(0, _SHIFT, (detections, 4))).round(2)
        scores = generator.uniform(0, 1, detections).round(5)
        for box, label, score in zip(found.tolist(), labels[chosen].tolist(), scores.tolist(), strict=True):
            rows.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    listed = [{"id": number, "height": SIDE, "width": SIDE} for number in range(1, images + 1)]
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, classes + 1)]
    return {"images": listed, "annotations": annotations, "categories": categories}, rows


def our_scores(truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The twelve numbers of COCO, as `CocoMetric` has them."""
    images, classes = ([entry["id"] for entry in truth[key]] for key in ("images", "categories"))
    return list(average_precision(truth, rows, "bbox", images, classes).summary().values())


def their_scores(truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The same of pycocotools, from the same lists in memory."""
    with redirect_stdout(io.StringIO()):  # it reports its progress
        expected = COCO()
        expected.dataset = {**truth, "info": {}}
        expected.createIndex()
        evaluation = COCOeval(expected, expected.loadRes([dict(row) for row in rows]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(number) for number in evaluation.stats]
