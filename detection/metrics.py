"""The metrics of COCO and of LVIS for detected boxes and masks."""

import io
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, ClassVar, Literal

import hotcoco
import numpy as np
from mmengine.logging import print_log
from mmengine.registry import METRICS

from pe_spatial.common.files import write_json
from pe_spatial.data import encode_masks
from pe_spatial.data.annotations.coco_columns import NO_AREA
from pe_spatial.data.formats import open_source
from pe_spatial.detection.average_precision import Curves, average_precision, without_negative_ids
from pe_spatial.detection.explanation import COCO_MEASURES, LVIS_MEASURES, explain, judge
from pe_spatial.training.explanation import UNDEFINED, ExplainedMetric, Measure

IouType = Literal["bbox", "segm"]
_TABLE_LIMIT = 100  # classes that are printed one by one


@METRICS.register_module()
class CocoMetric(ExplainedMetric):
    """Average precision and recall, as pycocotools computes them.

    The truth is the table of the dataset (metainfo `ann_file` and `ann_options`), crowds included; only the images
    that were predicted count. The metrics are `coco/bbox_mAP`, `…_mAP_50`, `_75`, `_s`, `_m`, `_l` and `…_AR_1`,
    `_10`, `_max`, `_s`, `_m`, `_l`, the same for `segm`, as fractions, NaN where nothing is defined.

    Args:
        iou_types: `bbox`, `segm` or both.
        max_detections: best detections per image and class that count.
        per_class: whether the metrics also have `bbox_AP/<class>` and `segm_AP/<class>`; the log shows them anyway
            for up to 100 classes.
        results_file: where detections are written in COCO's result format, in a run relative to its folder; None writes
            nothing.
    """

    default_prefix: ClassVar[str | None] = "coco"
    headline: ClassVar[tuple[str, ...]] = ("bbox_mAP", "bbox_mAP_50", "segm_mAP", "segm_mAP_50")
    measures: ClassVar[Mapping[str, Measure]] = COCO_MEASURES

    def __init__(
        self,
        iou_types: Sequence[IouType] = ("bbox", "segm"),
        max_detections: int = 100,
        per_class: bool = False,
        results_file: str | None = None,
    ) -> None:
        super().__init__()
        if not iou_types or set(iou_types) - {"bbox", "segm"}:
            raise ValueError(f"iou_types {list(iou_types)} must be 'bbox', 'segm' or both")
        self.iou_types = tuple(iou_types)
        self.max_detections = max_detections
        self.per_class = per_class
        self.results_file = results_file
        self._truth: dict[str, Any] | None = None
        self._classes: dict[str, list[float]] = {}  # of the last `score`: average precision by IoU type and class

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the detections of a batch: numbers, and masks as RLE.

        Args:
            data_batch: not used.
            data_samples: with `img_id` and `pred_instances` (`bboxes` [N, 4] xyxy in the original frame,
                `scores`, `labels` and, for `segm`, `masks`: RLEs or bool [N, H, W]).
        """
        for sample in data_samples:
            found = sample["pred_instances"]
            kept = {key: found[key].detach().cpu().numpy() for key in ("bboxes", "scores", "labels")}
            kept["bboxes"] = np.concatenate([kept["bboxes"][:, :2], kept["bboxes"][:, 2:] - kept["bboxes"][:, :2]], 1)
            if "segm" in self.iou_types:
                kept["masks"] = encode_masks(found["masks"])
            self.results.append({"img_id": sample["img_id"], "img_path": sample.get("img_path"), **kept})

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Score all images; an image that several processes were given counts once."""
        by_image = {result["img_id"]: result for result in results}
        detections = [row for result in by_image.values() for row in self._rows(result)]
        if self.results_file is not None:
            Path(self.results_file).parent.mkdir(parents=True, exist_ok=True)
            write_json(Path(self.results_file), detections, indent=None)
        scores = self.score(detections, sorted(by_image))
        metrics = {name: math.nan if value == -1 else value for name, value in scores.items()}
        self.explanation = explain(
            judge(by_image, self.truth("bbox"), self.meta("category_ids")),
            self.meta("classes"),
            {f"{kind}_AP": [math.nan if v == -1 else v for v in values] for kind, values in self._classes.items()},
            self.measures,
        )
        return metrics

    def score(self, detections: Sequence[Mapping[str, Any]], image_ids: Sequence[int]) -> dict[str, float]:
        """Metrics of detections in COCO's result format, on some images of the dataset; -1 where undefined, as COCO."""
        metrics: dict[str, float] = {}
        self._classes = {}
        for iou_type in self.iou_types:
            curves = average_precision(
                self.truth(iou_type),
                overlap_rows(detections, iou_type),
                iou_type,
                image_ids,
                self.meta("category_ids"),
                self.max_detections,
            )
            self._classes[iou_type] = curves.per_class()
            metrics |= {f"{iou_type}_{name}": value for name, value in curves.summary().items()}
            if self.per_class:
                pairs = zip(self.meta("classes"), self._classes[iou_type], strict=True)
                metrics |= {f"{iou_type}_AP/{name}": value for name, value in pairs}
        print_log(_table(metrics, self._classes, self.meta("classes")), logger="current")
        return metrics

    def truth(self, iou_type: IouType) -> dict[str, Any]:
        """The annotation file as COCO's tools need it; read once. For masks, without the objects that have none."""
        if self._truth is None:
            options = (self.dataset_meta or {}).get("ann_options", {})
            table = open_source(self.meta("ann_file"), **options).table
            self._truth = table.truth()
            if lost := int((table.columns["outside"] == NO_AREA).sum()):
                self._say(f"{lost} objects without area in their image count as missed; training leaves them out")
        if iou_type == "bbox":
            return self._truth
        drawn = [item for item in self._truth["annotations"] if "segmentation" in item]
        if lost := len(self._truth["annotations"]) - len(drawn):
            self._say(f"{lost} objects without a mask do not count for segm")
        return {**self._truth, "annotations": drawn}

    def _say(self, text: str) -> None:
        print_log(f"{self.meta('ann_file')}: {text}", logger="current", level=logging.WARNING)

    def meta(self, key: str) -> Any:
        """An entry of the dataset's metainfo.

        Raises:
            ValueError: it is not there.
        """
        if key not in (self.dataset_meta or {}):
            raise ValueError(f"{type(self).__name__} needs {key!r} in the dataset's metainfo; use CocoInstances")
        return (self.dataset_meta or {})[key]

    def _rows(self, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        category_ids = self.meta("category_ids")
        rows = [
            {"image_id": result["img_id"], "category_id": category_ids[label], "bbox": box, "score": score}
            for box, score, label in zip(*(result[key].tolist() for key in ("bboxes", "scores", "labels")), strict=True)
        ]
        for row, mask in zip(rows, result.get("masks", ()), strict=False):
            row["segmentation"] = mask
        return rows


@METRICS.register_module()
class LvisMetric(CocoMetric):
    """Average precision over the 1203 classes of LVIS, and over its rare, common and frequent ones.

    A detection is false only if its class is known to be absent from the image, or was annotated there completely.
    The metrics are `lvis/bbox_AP`, `…_AP50`, `_AP75`, `_APs`, `_APm`, `_APl`, `_APr`, `_APc`, `_APf`
    and recalls, the same for `segm`.

    Args:
        iou_types: `bbox`, `segm` or both.
        results_file: Where detections are written in COCO's result format; None writes nothing.
    """

    default_prefix: ClassVar[str | None] = "lvis"
    headline: ClassVar[tuple[str, ...]] = ("bbox_AP", "bbox_APr", "segm_AP", "segm_APr")
    measures: ClassVar[Mapping[str, Measure]] = LVIS_MEASURES

    def __init__(self, iou_types: Sequence[IouType] = ("bbox", "segm"), results_file: str | None = None) -> None:
        super().__init__(iou_types, max_detections=300, results_file=results_file)

    def score(self, detections: Sequence[Mapping[str, Any]], image_ids: Sequence[int]) -> dict[str, float]:
        """Metrics of detections in COCO's result format, on some images of the dataset; -1 where undefined."""
        metrics: dict[str, float] = {}
        self._classes = {}
        for iou_type in self.iou_types:
            content, rows, shift = without_negative_ids(self.truth(iou_type), overlap_rows(detections, iou_type))
            truth = hotcoco.COCO(content)
            run: Any = hotcoco.COCOeval(truth, truth.load_res(rows), iou_type, lvis_style=True)
            run.params.img_ids = [number + shift for number in image_ids]
            with redirect_stdout(io.StringIO()):
                run.run()
            metrics |= {f"{iou_type}_{name}": float(value) for name, value in run.get_results().items()}
            per_class = Curves(np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"])).per_class()
            of_category = dict(zip(run.params.cat_ids, per_class, strict=True))
            self._classes[iou_type] = [of_category.get(number, -1.0) for number in self.meta("category_ids")]
        print_log("\n" + "\n".join(f"{name:12}{_cell(value, 6)}" for name, value in metrics.items()), logger="current")
        return metrics


def overlap_rows(detections: Sequence[Mapping[str, Any]], iou_type: IouType) -> list[dict[str, Any]]:
    """Detections with either box or mask: COCO's tools take the size of an object from the box if there is one."""
    other = "segmentation" if iou_type == "bbox" else "bbox"
    return [{key: value for key, value in row.items() if key != other} for row in detections]


def _cell(value: float, width: int) -> str:
    return f"{UNDEFINED if value == -1 else f'{value:.3f}':>{width}}"


def _table(metrics: Mapping[str, float], classes: Mapping[str, Sequence[float]], labels: Sequence[str]) -> str:
    """The summary, a line per IoU type, and the average precision of every class, side by side if they are many."""
    names = [
        name.split("_", 1)[1] for name in metrics if name.startswith(next(iter(classes)) + "_") and "/" not in name
    ]
    lines = [f"{'':6}" + "".join(f"{name:>8}" for name in names)]
    lines += [f"{kind:6}" + "".join(_cell(metrics[f"{kind}_{name}"], 8) for name in names) for kind in classes]
    if len(labels) <= _TABLE_LIMIT:
        width = max(len(name) for name in (*labels, "mAP of")) + 2
        cells = [
            f"{name:{width}}" + "".join(_cell(value, 7) for value in values)
            for name, *values in zip(labels, *classes.values(), strict=True)
        ]
        columns = 1 if len(cells) <= 10 else 4
        lines.append("    ".join([f"{'mAP of':{width}}" + "".join(f"{kind:>7}" for kind in classes)] * columns))
        lines += ["    ".join(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    return "\n" + "\n".join(lines)
