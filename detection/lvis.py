"""LVIS v1: instances of 1203 classes, annotated class by class."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import DATASETS

from pe_spatial.detection.datasets import CocoInstances


@DATASETS.register_module()
class LvisInstances(CocoInstances):
    """LVIS v1, on the images of COCO 2017 (`data_prefix.img_path` holds `train2017` and `val2017`).

    An image is annotated only for the classes that it shows and for some that it is known not to show; `LvisMetric`
    reads from the file which these are. The metainfo has the `frequency` of every class: r (rare), c (common) or f
    (frequent).
    """

    def describe(self, categories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The frequency of every class."""
        return {"frequency": tuple(category["frequency"] for category in categories)}

    def image_file(self, image: Mapping[str, Any]) -> str:
        """LVIS names images by their address, which ends in folder and file."""
        return "/".join(image["coco_url"].split("/")[-2:])
