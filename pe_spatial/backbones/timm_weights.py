"""Weights of a model of timm from a file: read safely, renamed by timm itself, and loaded strictly."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pe_spatial.backbones.timm_models import TimmModel
from pe_spatial.backbones.weights.content import Checkpoint
from pe_spatial.backbones.weights.loading import Origin
from pe_spatial.backbones.weights.source import find
from pe_spatial.common.errors import few
from pe_spatial.common.integrity import content_hash
from pe_spatial.common.tensors import Misfit, WeightsError, require_finite, shapes_of

if TYPE_CHECKING:
    from pathlib import Path


def load_timm_weights(model: TimmModel, source: str | Path, antialias: bool) -> tuple[str, Origin]:
    """Put weights into a model of timm; nothing is fetched, and no file can run code.

    Args:
        model: Of timm.
        source: A file, or a folder with one.
        antialias: How a table of positions of another size is resized, where timm lets one choose.

    Returns:
        What was done, for the log; and where the weights can be found again.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: It cannot be read, holds another model, or holds NaN or Inf.
    """
    path = find(source)
    checkpoint = Checkpoint(path)
    tensors: Mapping[str, Any] = checkpoint.read(checkpoint.keys)
    file_hash = content_hash(tensors)
    tensors, ignored = _inside(tensors, model)
    tensors = _renamed(path, tensors, model, antialias)
    for name in _classifiers(model):
        for key in [key for key in tensors if key.startswith(f"{name}.")]:
            ignored.append(key)
            del tensors[key]
    expected = shapes_of(model.state_dict())
    if misfit := str(Misfit(shapes_of(tensors), expected)):
        name = model.pretrained_cfg["architecture"]
        raise WeightsError(
            f"{path} does not fit {name}: {misfit}. Give weights of this model, or the name of the model that they "
            f"belong to"
        )
    require_finite(path, tensors)
    model.load_state_dict(tensors, strict=True)
    text = f"{len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors.values()):,} numbers from {path}"
    origin = Origin(str(source), file_hash, content_hash(model.state_dict()))
    return (f"{text}; ignored: {few(ignored)}" if ignored else text), origin


def _inside(tensors: Mapping[str, Any], model: TimmModel) -> tuple[dict[str, Any], list[str]]:
    """The model's own tensors where they stand under a prefix in a larger checkpoint, and the names of the others."""
    from timm.models import clean_state_dict

    cleaned = clean_state_dict(dict(tensors))
    names = list(model.state_dict())
    prefixes = {key.removesuffix(names[0]) for key in cleaned if key.endswith(f".{names[0]}")}
    whole = [prefix for prefix in prefixes if all(prefix + name in cleaned for name in names)]
    if len(whole) != 1:
        return cleaned, []
    mine = {key.removeprefix(whole[0]): value for key, value in cleaned.items() if key.startswith(whole[0])}
    return mine, [key for key in cleaned if not key.startswith(whole[0])]


def _renamed(path: Path, tensors: Mapping[str, Any], model: TimmModel, antialias: bool) -> dict[str, Tensor]:
    """What timm's own filter makes of the names and shapes of a file."""
    filters = vars(sys.modules[type(model).__module__])
    rename = filters.get("checkpoint_filter_fn") or filters.get("_filter_fn")
    if rename is None:
        return dict(tensors)
    choices = {"antialias": antialias} if "antialias" in inspect.signature(rename).parameters else {}
    try:
        renamed: dict[str, Tensor] = rename(dict(tensors), model, **choices)
    # timm's filters index and reshape what they expect: another file makes them raise almost anything
    except Exception as error:
        raise WeightsError(
            f"{path} does not fit {model.pretrained_cfg['architecture']}: timm cannot read its tensors "
            f"({few(tensors)}; {type(error).__name__}: {error}). Give weights of this model, or the name of the "
            f"model that they belong to"
        ) from error
    return renamed


def _classifiers(model: TimmModel) -> tuple[str, ...]:
    """Names of the parts that turn features into classes; the model was built without."""
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)
