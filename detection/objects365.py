"""Objects365 v2: boxes of 365 classes."""

from collections.abc import Mapping
from typing import Any, Literal

from mmengine.registry import DATASETS

from pe_spatial.detection.datasets import CocoInstances


@DATASETS.register_module()
class Objects365(CocoInstances):
    """Objects365 v2, whose archives unpack to `patch0/…` below `data_prefix.img_path`.

    Classes come from the annotation file. It lists images that its archives lack: they are left out, and counted in the
    log.

    Args:
        *args, **kwargs: Those of `CocoInstances`.
    """

    def __init__(self, *args: Any, missing: Literal["raise", "drop"] = "drop", **kwargs: Any) -> None:
        super().__init__(*args, missing=missing, **kwargs)

    def image_file(self, image: Mapping[str, Any]) -> str:
        """The file names images/v1/patch8/name.jpg; the archives have patch8/name.jpg."""
        return "/".join(image["file_name"].split("/")[-2:])
