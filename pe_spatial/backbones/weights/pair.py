"""Load both halves of PE-Core, the encoder of pictures and the text tower, from one file, strictly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pe_spatial.backbones.variants import VARIANTS
from pe_spatial.backbones.weights.content import Checkpoint
from pe_spatial.backbones.weights.layouts import TEXT_REASON, Layout
from pe_spatial.backbones.weights.loading import WeightsReport, cast, check_values, dtypes_of, load_state_dict
from pe_spatial.common.errors import few
from pe_spatial.common.tensors import Misfit, Shapes, WeightsError, shapes_of

if TYPE_CHECKING:
    from pe_spatial.backbones.text.core import PECore

_IMAGE = "visual."  # the image half in an official state dict
_TEXT = "text."  # what open_clip and timm put before the keys of the text half, except before logit_scale
_MASK = "attn_mask"  # a table that old files have, which is computed
_BIAS = "logit_bias"  # of models trained with another loss: a file with it is no PE-Core, and refused


def load_core(module: PECore, source: str | Path, adapt: Sequence[str] = ()) -> WeightsReport:
    """Put the weights of both halves into a PE-Core, in its own dtype, without a second copy; see `load_weights`.

    Args:
        module: On any device.
        source: See `find`. The layout is the official one, or that of open_clip and timm.
        adapt: See `load_state_dict`.

    Raises:
        FileNotFoundError: See `find`.
        WeightsError: See `load_state_dict`; or the file has no text half, or another one.
    """
    parameter = module.logit_scale
    image, report = load_state_dict(source, module.config, dtype=parameter.dtype, adapt=adapt)
    text = _text_half(report, module, parameter.dtype)
    state = {**text, **{_IMAGE + key: tensor for key, tensor in image.items()}}
    module.load_state_dict(state, strict=True, assign=parameter.device.type in ("cpu", "meta"))
    report.tensors = len(state)
    report.parameters = sum(tensor.numel() for tensor in state.values())
    report.dtype = dtypes_of(state)
    return report


def _text_half(report: WeightsReport, module: PECore, dtype: torch.dtype) -> dict[str, Tensor]:
    """The text half in the official layout and the order of the model; the report no longer calls it ignored."""
    path, name = report.path, module.config.name
    checkpoint = Checkpoint(path)
    expected = shapes_of({key: tensor for key, tensor in module.state_dict().items() if not key.startswith(_IMAGE)})
    found = _find_text(checkpoint.keys, report.layout, expected)
    tensors = checkpoint.read(found.values())
    known = {key: tensors[place] for key, place in found.items() if key != _MASK}
    if "token_embedding.weight" not in known:
        raise WeightsError(
            f"{path} contains the image encoder ({report.layout}) but no text tower: token_embedding.weight is not "
            f"among its {len(checkpoint.keys)} tensors. Use the whole checkpoint of PE-Core "
            "(https://huggingface.co/facebook/" + (name if name in VARIANTS else "PE-Core-B16-224") + " for example), "
            "or use PEBackbone, which needs no text tower"
        )
    shapes = shapes_of(known)
    if shapes != expected:
        misfit = Misfit(shapes, expected)
        raise WeightsError(f"{path}: its text tower does not fit {name}: {misfit}. {_remedy(module, shapes)}")
    check_values(path, known)
    for key, place in found.items():
        report.ignored.pop(place, None)
        if key == _MASK:
            report.ignored[place] = "causal mask, which is computed"
    beside = {key for key, reason in report.ignored.items() if reason == TEXT_REASON}
    report.ignored.update(dict.fromkeys(beside, "not part of PE-Core"))
    return cast({key: known[key] for key in expected}, dtype, report)


def _find_text(keys: Iterable[str], layout: Layout, expected: Shapes) -> dict[str, str]:
    """Where the file has each key of the text half, by its official name.

    What lies beside the encoder and belongs to no text half, such as a head of the user's own, is not among them.
    """
    root = layout.prefix.removesuffix("trunk.").removesuffix(_IMAGE)
    if root == layout.prefix:
        return {}  # the encoder lies under no `visual.`: what stands beside it is no text half
    beside = {key.removeprefix(root): key for key in keys if key.startswith(root) and not key.startswith(root + _IMAGE)}
    families = {*(key.split(".")[0] for key in expected), _MASK, _BIAS, _TEXT[:-1]}
    return {key.removeprefix(_TEXT): place for key, place in beside.items() if key.split(".")[0] in families}


def _remedy(module: PECore, shapes: Shapes) -> str:
    """Which released encoders have such a text tower, or what the file says of its own."""
    table, blocks = shapes.get("positional_embedding"), _depth(shapes)
    if table is None or len(table) != 2:
        return "Take the weights of that encoder"
    size = (table[0], table[1], blocks)
    names = [
        name
        for name, row in VARIANTS.items()
        if row.text is not None and (row.text.context, row.text.width, row.text.depth) == size
    ]
    described = f"The file's text tower has context {table[0]}, width {table[1]} and {blocks} blocks"
    if names:
        return f"{described}, as that of {few(names)}"
    return f"{described}; describe it in the field text of the variant, or use the weights of {module.config.name}"


def _depth(shapes: Shapes) -> int:
    return len({key.split(".")[2] for key in shapes if key.startswith("transformer.resblocks.")})
