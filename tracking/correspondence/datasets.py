"""Photographs that are matched with views of themselves."""

from collections.abc import Mapping
from typing import Any

from mmengine.registry import DATASETS

from pe_spatial.common.parts import build_options
from pe_spatial.common.sources import Spec
from pe_spatial.data.images import ImageFolder
from pe_spatial.tracking.correspondence.homographies import Homographies


@DATASETS.register_module()
class Photographs(ImageFolder):
    """Images without labels, and how they are seen anew.

    Args:
        source: Of the images, as `ImageFolder` takes it.
        homographies: Fields of `Homographies`.
        **kwargs: Those of `ImageFolder`.

    Raises:
        ConfigError: An unknown field of `homographies`, or one outside its range.
    """

    def __init__(self, source: Spec, homographies: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.homographies = build_options(Homographies, homographies or {}, "homographies")
        super().__init__(source, **kwargs)
