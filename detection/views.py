"""What builds the ways in which a detector sees a picture several times: `tta` and `slices`."""

from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS

from pe_spatial.common.errors import OptionError


def build_views(kind: str, key: str, settings: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of that kind
    """The part of a registered kind that `model.KEY` configures.

    Raises:
        OptionError: Impossible settings.
    """
    try:
        return MODELS.build({"type": kind, **settings})
    except TypeError as error:  # a name that the settings do not have
        raise OptionError(f"{key}: {error}") from error


def require_canvas(preprocessor: Any, side: int, what: str, remedy: str) -> None:  # noqa: ANN401 - any module
    """Refuse views that the canvas of a detector has no room for.

    Args:
        preprocessor: Of the detector; without `pad_to` any size fits.
        side: Longest one of a view, in pixels.
        what: The views are, for the message.
        remedy: Beside a larger canvas.

    Raises:
        OptionError: The canvas is smaller.
    """
    canvas = getattr(preprocessor, "pad_to", None)
    if canvas is not None and side > min(canvas):
        raise OptionError(
            f"{what}, and images are padded to {tuple(canvas)}; {remedy}, or set "
            "model.data_preprocessor.pad_to to a larger size"
        )
