"""Building a part of a detector from its settings and from what the part before it fixes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS


def build_part(part: str, settings: Mapping[str, Any], **given: Any) -> Any:  # noqa: ANN401 - any registered module
    """Build a registered module.

    Args:
        part: its name in the config, for the message.
        settings: with ``type``.
        **given: settings that the part before it fixes.

    Raises:
        ValueError: a setting contradicts what is given.
    """
    for key, value in given.items():
        if key in settings and settings[key] != value:
            raise ValueError(f"{part}.{key} is {settings[key]!r}, but {value!r} arrives; leave it out of the config")
    return MODELS.build({**settings, **given})
