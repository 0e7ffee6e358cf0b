"""Building a part of a model from its settings and from what the part before it fixes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS


def link(part: str, settings: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Settings together with what the part before fixes.

    Args:
        part: its name in the config, for the message.
        settings: as in the config.
        **given: settings that the part before it fixes.

    Raises:
        ValueError: a setting contradicts what is given.
    """
    for key, value in given.items():
        if key in settings and settings[key] != value:
            raise ValueError(f"{part}.{key} is {settings[key]!r}, but {value!r} arrives; leave it out of the config")
    return {**settings, **given}


def build_part(part: str, settings: Mapping[str, Any], **given: Any) -> Any:  # noqa: ANN401 - any registered module
    """Build a registered module from settings with `type`; see `link`."""
    return MODELS.build(link(part, settings, **given))
