"""Whether the encoders of two models are one and the same, frozen: what a shared pass rests on."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from pe_spatial.backbones import PEBackbone
from pe_spatial.backbones.vit import VisionTransformer
from pe_spatial.common.trees import divergences, short

_AFTER_BLOCKS = ("ln_post", "attn_pool", "proj")  # what follows the last block; maps without the norm do not need it


def shareable_backbone(model: nn.Module) -> PEBackbone | str:
    """The backbone of a model, or why its pass cannot be shared."""
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, PEBackbone):
        return f"its backbone is a {type(backbone).__name__}; only the passes of a PEBackbone are shared"
    if backbone.lora is not None:
        return (
            "its encoder has adapters (LoRA), and what they learned makes another encoder of it, merged or not; only "
            "frozen encoders are shared"
        )
    return backbone


def needed_blocks(model: nn.Module) -> tuple[int, ...]:
    """The blocks whose outputs a model takes from its encoder.

    A model that computes the last blocks itself, such as one with queries in them, names them as `shared_layers`.
    """
    layers: Sequence[int] = getattr(model, "shared_layers", None) or model.backbone.layers  # type: ignore[assignment,union-attr]
    return tuple(layers)


def not_frozen(model: nn.Module) -> str | None:
    """Why the blocks that a model needs may differ from what its run began with; None where they are frozen."""
    backbone: Any = model.backbone
    if getattr(model, "task", None) == "tracking" or backbone.frozen_layers >= max(needed_blocks(model)) + 2:
        return None
    trained = "all of it" if backbone.frozen_layers == 0 else f"all but the first {backbone.frozen_layers - 1} blocks"
    return (
        f"its encoder was trained in that run ({trained}), so it is another one; only frozen encoders are shared: "
        "train the head with --encoder-from RUN, or with model.backbone.frozen=true"
    )


def encoder_difference(lead: VisionTransformer, other: VisionTransformer, last: int) -> str | None:
    """What first differs between two encoders up to a block, in the words of a message; None if nothing does.

    Args:
        lead: The encoder that is there.
        other: The one that is compared with it.
        last: The last block that counts.
    """
    for name, (ours, theirs) in divergences([options_of(lead), options_of(other)]):
        return f"its encoder has {name} {short(theirs)} instead of {short(ours)}"
    others = needed_weights(other, last)
    for name, tensor in needed_weights(lead, last).items():
        found = others[name]
        if not torch.equal(tensor, found.to(tensor.device)):
            gap = (tensor.float() - found.to(tensor.device).float()).abs().max().item()
            return f"the weights of its encoder are others: {name} is the first that differs, by up to {gap:.3g}"
    return None


def options_of(encoder: VisionTransformer) -> dict[str, Any]:
    """The options that change what an encoder computes, by their names in a config."""
    shape = {name: value for name, value in asdict(encoder.config).items() if name != "name"}
    everywhere = [number for number, windowed in enumerate(encoder.windowed) if not windowed]
    grid = encoder.config.grid_size
    rope = {None: "extrapolate", grid: "interpolate"}.get(encoder.rope_reference, encoder.rope_reference)
    return {
        **{name: list(value) if isinstance(value, tuple) else value for name, value in shape.items()},
        "window": encoder.window,
        "global_blocks": everywhere if encoder.window is not None else [],
        "rope": rope,
        "pos_embed": encoder.pos_embed,
    }


def needed_weights(encoder: VisionTransformer, last: int) -> dict[str, Tensor]:
    """The weights that the tokens after block `last` depend on, in the order of computation."""
    needed = {}
    for name, tensor in encoder.state_dict().items():
        part, _, rest = name.partition(".")
        if part in _AFTER_BLOCKS or (part == "class_embedding" and not encoder.has_cls):
            continue
        if part == "transformer" and int(rest.split(".")[1]) > last:
            continue
        needed[name] = tensor
    return needed


def tie_weights(own: nn.Module, lead: nn.Module) -> None:
    """Let a module use the memory of another one for every parameter that is equal in both."""
    others = dict(lead.named_parameters())
    for name, parameter in own.named_parameters():
        other = others.get(name)
        if other is not None and parameter.device == other.device and torch.equal(parameter, other):
            parameter.data = other.data
