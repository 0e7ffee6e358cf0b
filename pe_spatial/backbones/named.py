"""Encoders by name: those that are released, those of timm, and a PE-Core in a folder."""

from typing import Any

from pe_spatial.backbones.text.runs import is_core_folder, shape_of, source_of
from pe_spatial.backbones.timm_models import names_of_timm, require_known
from pe_spatial.backbones.variants import TRAINED_WITH, VARIANTS
from pe_spatial.common.errors import MissingPackage, UnknownName, few, suggest

TIMM = "timm:"  # may precede a name, where timm is meant and nothing else


def named_encoder(name: str, weights: str | None) -> dict[str, Any]:
    """The settings of the backbone that a name stands for.

    Args:
        name: Of a released encoder (`PE-Spatial-B16-512`), or timm's (`vit_small_patch14_dinov2`, with or without
            `timm:` in front); or a folder with a PE-Core, as `pe-spatial demo --words` writes it.
        weights: A file, "none" for random ones, or the name of a released encoder. None takes the released ones; timm's
            models then begin with random weights, for nothing of theirs is fetched.

    Raises:
        UnknownName: None has it; names the nearest.
        UnreadableFile: The file that describes the PE-Core of a folder is damaged.
        MissingPackage: It is none of the released ones, and timm is not installed.
    """
    source = None if weights == "none" else weights
    if name in VARIANTS:
        options = TRAINED_WITH[name].options if name in TRAINED_WITH else {}
        return {"type": "PEBackbone", "variant": name, "weights": name if weights is None else source, **options}
    if is_core_folder(name):
        return {"type": "PEBackbone", "variant": shape_of(name), "weights": source_of(name, weights)}
    model = name.removeprefix(TIMM)
    try:
        require_known(model)
    except (UnknownName, MissingPackage):
        if name.startswith(TIMM) or model.partition(".")[0] in names_of_timm():
            raise
        raise UnknownName(f"there is no encoder {name!r}; {nearest_encoder(name)}") from None
    return {"type": "TimmBackbone", "model": model, "weights": source}


def nearest_encoder(name: str) -> str:
    """What may be meant by a name that no encoder has, for messages."""
    for choices in (VARIANTS, names_of_timm()):
        if "did you mean" in (hint := suggest(name, choices)):
            return hint
    theirs = "timm.list_models() names timm's" if names_of_timm() else "pip install 'pe_spatial[timm]' adds timm's"
    return f"released are {few(VARIANTS, 4)}; {theirs}"
