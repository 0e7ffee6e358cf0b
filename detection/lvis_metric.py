"""LVIS's metrics: average precision where only some classes of an image were annotated."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any, ClassVar

from mmengine.logging import print_log
from mmengine.registry import METRICS

from pe_spatial.common.errors import MissingPackage
from pe_spatial.detection.metrics import CocoMetric, IouType, overlap_rows


@METRICS.register_module()
class LvisMetric(CocoMetric):
    """Average precision over the 1203 classes of LVIS, and over its rare, common and frequent ones.

    A detection is false only if its class is known to be absent from the image, or was annotated there completely.
    The metrics are `lvis/bbox_AP`, `…_AP50`, `_AP75`, `_APs`, `_APm`, `_APl`, `_APr`, `_APc`, `_APf`
    and recalls, the same for `segm`. Computed by hotcoco.

    Args:
        iou_types: `bbox`, `segm` or both.
        results_file: Where detections are written in COCO's result format; None writes nothing.

    Raises:
        ModuleNotFoundError: Hotcoco is not installed.
    """

    default_prefix: ClassVar[str | None] = "lvis"
    headline: ClassVar[tuple[str, ...]] = ("bbox_AP", "bbox_APr", "segm_AP", "segm_APr")

    def __init__(self, iou_types: Sequence[IouType] = ("bbox", "segm"), results_file: str | None = None) -> None:
        if find_spec("hotcoco") is None:
            raise MissingPackage("LvisMetric needs hotcoco, which is not installed; run pip install hotcoco")
        super().__init__(iou_types, max_detections=300, results_file=results_file)

    def score(self, detections: Sequence[Mapping[str, Any]], image_ids: Sequence[int]) -> dict[str, float]:
        """Metrics of detections in COCO's result format, on some images of the dataset."""
        import hotcoco

        metrics: dict[str, float] = {}
        for iou_type in self.iou_types:
            truth = hotcoco.COCO(dict(self.truth()))
            run = hotcoco.COCOeval(truth, truth.load_res(overlap_rows(detections, iou_type)), iou_type, lvis_style=True)
            run.params.img_ids = list(image_ids)
            with redirect_stdout(io.StringIO()):
                run.run()
            metrics |= {f"{iou_type}_{name}": float(value) for name, value in run.get_results().items()}
        print_log("\n" + "\n".join(f"{name:12} {value:.3f}" for name, value in metrics.items()), logger="current")
        return metrics
