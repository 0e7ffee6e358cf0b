"""Average precision by COCO's definition, computed by hotcoco or by pycocotools.

Both return the same numbers; hotcoco needs about a second for COCO's validation set, pycocotools a minute.
T IoU thresholds, R recall thresholds, K classes, A area ranges, M limits on detections per image.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Backend = Literal["hotcoco", "pycocotools"]

# the names of both libraries for images, classes and limits on detections
_PARAMETERS = {"hotcoco": ("img_ids", "cat_ids", "max_dets"), "pycocotools": ("imgIds", "catIds", "maxDets")}

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # area ranges: all, below 32², to 96², and above, in pixels
_IOU_50, _IOU_75 = 0, 5  # positions of the thresholds 0.5, 0.55 … 0.95


@dataclass(frozen=True)
class Curves:
    """`precision` [T, R, K, A, M] and `recall` [T, K, A, M]; -1 where there is no object to find."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def summary(self) -> dict[str, float]:
        """The twelve numbers of COCO; -1 where undefined."""
        ap, ar = self.precision, self.recall
        return {
            "mAP": _mean(ap[:, :, :, _ALL, -1]),
            "mAP_50": _mean(ap[_IOU_50, :, :, _ALL, -1]),
            "mAP_75": _mean(ap[_IOU_75, :, :, _ALL, -1]),
            "mAP_s": _mean(ap[:, :, :, _SMALL, -1]),
            "mAP_m": _mean(ap[:, :, :, _MEDIUM, -1]),
            "mAP_l": _mean(ap[:, :, :, _LARGE, -1]),
            "AR_1": _mean(ar[:, :, _ALL, 0]),
            "AR_10": _mean(ar[:, :, _ALL, 1]),
            "AR_max": _mean(ar[:, :, _ALL, 2]),
            "AR_s": _mean(ar[:, :, _SMALL, -1]),
            "AR_m": _mean(ar[:, :, _MEDIUM, -1]),
            "AR_l": _mean(ar[:, :, _LARGE, -1]),
        }

    def per_class(self) -> list[float]:
        """Average precision of every class; -1 for classes without objects."""
        return [_mean(self.precision[:, :, k, _ALL, -1]) for k in range(self.precision.shape[2])]


def average_precision(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    iou_type: Literal["bbox", "segm"],
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    max_detections: int = 100,
    backend: Backend = "hotcoco",
) -> Curves:
    """Compare detections with the truth.

    Args:
        truth: a COCO dataset; annotations have `area`, `iscrowd` and ids above 0 (0 reads as "unmatched").
        results: Detections in COCO's result format, with `bbox` or with `segmentation` (RLE).
        iou_type: Overlap of boxes or of masks.
        image_ids: Images that count.
        category_ids: Classes that count, in the order of K.
        max_detections: Best detections per image and class that count.
        backend: Which library computes.
    """
    ordered = sorted(category_ids)  # pycocotools sorts the classes anyway
    with redirect_stdout(io.StringIO()):  # both report their progress
        run = (_hotcoco if backend == "hotcoco" else _pycocotools)(truth, list(map(dict, results)), iou_type)
        settings = (list(image_ids), ordered, [1, 10, max_detections])
        for name, value in zip(_PARAMETERS[backend], settings, strict=True):
            setattr(run.params, name, value)
        run.evaluate()
        run.accumulate()
    columns = [ordered.index(number) for number in category_ids]
    return Curves(np.asarray(run.eval["precision"])[:, :, columns], np.asarray(run.eval["recall"])[:, columns])


def _hotcoco(truth: Mapping[str, Any], results: list[dict[str, Any]], iou_type: str) -> Any:  # noqa: ANN401
    import hotcoco

    expected = hotcoco.COCO(dict(truth))
    return hotcoco.COCOeval(expected, expected.load_res(results), iou_type)


def _pycocotools(truth: Mapping[str, Any], results: list[dict[str, Any]], iou_type: str) -> Any:  # noqa: ANN401
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    expected = COCO()
    expected.dataset = dict(truth)
    expected.createIndex()
    if results:
        found = expected.loadRes(results)
    else:  # loadRes fails on an empty list
        found = COCO()
        found.dataset = {**truth, "annotations": []}
        found.createIndex()
    return COCOeval(expected, found, iou_type)


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
