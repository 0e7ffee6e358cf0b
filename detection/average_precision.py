"""Average precision by COCO's definition, computed by hotcoco.

Its numbers are those of pycocotools, which needs a minute for COCO's validation set instead of a second.
T IoU thresholds, R recall thresholds, K classes, A area ranges, M limits on detections per image.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

import hotcoco
import numpy as np
from numpy.typing import NDArray

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # area ranges: all, below 32², to 96², and above, in pixels
_LISTS = ("images", "categories", "annotations")
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
) -> Curves:
    """Compare detections with the truth.

    Args:
        truth: a COCO dataset; annotations have `area`, `iscrowd` and ids above 0 (0 reads as "unmatched").
        results: Detections in COCO's result format, with `bbox` or with `segmentation` (RLE).
        iou_type: Overlap of boxes or of masks.
        image_ids: Images that count.
        category_ids: Classes that count, in the order of K.
        max_detections: Best detections per image and class that count.
    """
    content, rows, shift = without_negative_ids(truth, results, category_ids)
    image_ids, category_ids = ([number + shift for number in ids] for ids in (image_ids, category_ids))
    ordered = sorted(category_ids)
    with redirect_stdout(io.StringIO()):  # it reports its progress
        expected = hotcoco.COCO(content)
        run: Any = hotcoco.COCOeval(expected, expected.load_res(rows), iou_type)
        run.params.img_ids = list(image_ids)
        run.params.cat_ids = ordered
        run.params.max_dets = [1, 10, max_detections]
        run.evaluate()
        run.accumulate()
    columns = [ordered.index(number) for number in category_ids]
    return Curves(np.asarray(run.eval["precision"])[:, :, columns], np.asarray(run.eval["recall"])[:, columns])


def without_negative_ids(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], category_ids: Sequence[int] = ()
) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """Truth and results as hotcoco takes them, which knows no ids below 0, and what was added to all of their ids.

    Args:
        truth: A COCO dataset.
        results: Detections in COCO's result format.
        category_ids: More ids, of classes that the truth does not have.
    """
    shift = -min(0, *category_ids, *(entry["id"] for key in ("images", "categories") for entry in truth[key]))
    if shift == 0:
        return dict(truth), list(map(dict, results)), 0

    def shifted(entry: Mapping[str, Any]) -> dict[str, Any]:
        changed = {key: entry[key] + shift for key in ("image_id", "category_id") if key in entry}
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            changed |= {key: [number + shift for number in entry[key]]} if key in entry else {}
        return {**entry, **changed}

    listed = {key: [{**shifted(entry), "id": entry["id"] + shift} for entry in truth[key]] for key in _LISTS}
    return {**truth, **listed}, [shifted(row) for row in results], shift


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
