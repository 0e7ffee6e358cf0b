"""Encoders by name: those that are released, and those of timm."""

from typing import Any

from pe_spatial.backbones.variants import VARIANTS
from pe_spatial.common.errors import MissingPackage, UnknownName, few, suggest

TIMM = "timm:"  # may precede a name, where timm is meant and nothing else


def named_encoder(name: str, weights: str | None) -> dict[str, Any]:
    """The settings of the backbone that a name stands for.

    Args:
        name: Of a released encoder (`PE-Spatial-B16-512`), or timm's (`vit_small_patch14_dinov2`, with or without
            `timm:` in front).
        weights: A file, "none" for random ones, or the name of a released encoder. None takes the released ones; timm's
            models then begin with random weights, for nothing of theirs is fetched.

    Raises:
        UnknownName: Neither has it; names the nearest.
        MissingPackage: It is none of the released ones, and timm is not installed.
    """
    source = None if weights == "none" else weights
    if name in VARIANTS:
        return {"type": "PEBackbone", "variant": name, "weights": name if weights is None else source}
    from pe_spatial.backbones.timm_models import require_known

    try:
        require_known(name.removeprefix(TIMM))
    except MissingPackage as error:
        if name.startswith(TIMM):
            raise
        raise MissingPackage(
            f"{name!r} is none of the released encoders ({few(VARIANTS, 2)}; {suggest(name, VARIANTS)}); {error}"
        ) from error
    except UnknownName as error:
        if name.startswith(TIMM):
            raise
        raise UnknownName(f"no released encoder is called {name!r} ({suggest(name, VARIANTS)}), and {error}") from error
    return {"type": "TimmBackbone", "model": name.removeprefix(TIMM), "weights": source}
