"""What models of several tasks share: parts that are built from settings, and the modes of `forward`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement


def link(part: str, settings: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Settings together with what the part before fixes.

    Args:
        part: Its name in the config, for the message.
        settings: As in the config.
        **given: Settings that the part before it fixes.

    Raises:
        ValueError: A setting contradicts what is given.
    """
    for key, value in given.items():
        if key in settings and settings[key] != value:
            raise ValueError(f"{part}.{key} is {settings[key]!r}, but {value!r} arrives; leave it out of the config")
    return {**settings, **given}


def build_part(part: str, settings: Mapping[str, Any], **given: Any) -> Any:  # noqa: ANN401 - any registered module
    """Build a registered module from settings with `type`; see `link`."""
    return MODELS.build(link(part, settings, **given))


def require_samples(mode: str, data_samples: Sequence[BaseDataElement] | None) -> list[BaseDataElement]:
    """Return the data samples that a model's `forward` needs in the modes "loss" and "predict".

    Raises:
        ValueError: Another mode, or no data samples.
    """
    if mode not in ("loss", "predict"):
        raise ValueError(f"mode={mode!r} is not one of 'loss', 'predict', 'tensor'")
    if data_samples is None:
        raise ValueError(f"mode={mode!r} needs data_samples")
    return list(data_samples)
