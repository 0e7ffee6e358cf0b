"""LVIS v1: instances of 1203 classes, annotated class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import DATASETS

from pe_spatial.detection.datasets import CocoInstances


@DATASETS.register_module()
class LvisInstances(CocoInstances):
    """LVIS v1, on the images of COCO 2017 (`data_prefix.img_path` holds `train2017` and `val2017`).

    An image is complete only for the classes that it shows and those that it is known not to show. Records name the
    latter in `absent_labels`, and in `incomplete_labels` the classes of which not every object was drawn. The
    metainfo has the `frequency` of every class: r (rare), c (common) or f (frequent).
    """

    def describe(self, categories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The frequency of every class."""
        return {"frequency": tuple(category["frequency"] for category in categories)}

    def image_file(self, image: Mapping[str, Any]) -> str:
        """LVIS names images by their address, which ends in folder and file."""
        return "/".join(image["coco_url"].split("/")[-2:])

    def _record(
        self,
        image: Mapping[str, Any],
        annotations: Sequence[Mapping[str, Any]],
        label_of: Mapping[int, int],
        *rest: Any,
    ) -> dict[str, Any]:
        record = super()._record(image, annotations, label_of, *rest)
        for key, source in (
            ("absent_labels", "neg_category_ids"),
            ("incomplete_labels", "not_exhaustive_category_ids"),
        ):
            record[key] = [label_of[number] for number in image.get(source, ()) if number in label_of]
        return record
