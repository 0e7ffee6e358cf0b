"""Whether the encoders of two models are one and the same, frozen: what a shared pass rests on."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pe_spatial.backbones import PEBackbone, TimmBackbone
from pe_spatial.common.trees import divergences, short

_AFTER_BLOCKS = ("ln_post", "attn_pool", "proj")  # what follows the last block; maps without the norm do not need it
# options of a backbone that leave alone what its frozen encoder computes; the weights are compared themselves
_OF_TRAINING = ("layers", "frozen", "drop_path", "checkpointing", "weights", "lora")


def why_not_shared(model: nn.Module) -> str | None:
    """Why the pass of a model's encoder cannot be another model's too; None where it can."""
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, PEBackbone) and backbone.lora is not None:
        return (
            "its encoder has adapters (LoRA), and what they learned makes another encoder of it, merged or not; only "
            "frozen encoders are shared"
        )
    if not isinstance(getattr(backbone, "layers", None), tuple):
        return f"its backbone is a {type(backbone).__name__}, which does not say which layers its maps are of"
    if hasattr(model, "shared_layers") and not isinstance(backbone, PEBackbone):
        return (
            f"it runs the last blocks of its encoder itself, and of a {type(backbone).__name__} whole passes alone are "
            "shared"
        )
    return None


def needed_layers(model: nn.Module) -> tuple[int, ...]:
    """The layers whose outputs a model takes from its encoder.

    A model that computes the last blocks itself, such as one with queries in them, names them as `shared_layers`.
    """
    layers: Sequence[int] = getattr(model, "shared_layers", None) or model.backbone.layers  # type: ignore[assignment,union-attr]
    return tuple(layers)


def encoder_difference(lead: Any, other: Any, settings: Sequence[Mapping[str, Any]], last: int) -> str | None:  # noqa: ANN401
    """What first differs between the encoders of two backbones, in the words of a message; None if nothing does.

    Args:
        lead: A backbone.
        other: The one that is compared with it.
        settings: The sections of their configs.
        last: The last layer that counts.
    """
    options = [options_of(backbone, section) for backbone, section in zip((lead, other), settings, strict=True)]
    for name, (ours, theirs) in divergences(options):
        return f"its encoder has {name} {short(theirs)} instead of {short(ours)}"
    others = needed_weights(other, last)
    for name, tensor in needed_weights(lead, last).items():
        found = others[name].to(tensor.device)
        if not torch.equal(tensor, found):
            gap = (tensor.float() - found.float()).abs().max().item()
            return f"the weights of its encoder are others: {name} is the first that differs, by up to {gap:.3g}"
    return None


def what_was_trained(backbone: Any) -> str | None:  # noqa: ANN401 - any backbone
    """How much of an encoder its run has trained; None where all of it was frozen."""
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        return None
    frozen = getattr(backbone, "frozen_layers", 0)
    return "trained" if frozen == 0 else f"trained but for the embeddings and the first {frozen - 1} layers"


def options_of(backbone: Any, settings: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - any backbone
    """The options that change what an encoder computes, by their names in a config."""
    if isinstance(backbone, TimmBackbone):
        return backbone.settings()
    if not isinstance(backbone, PEBackbone):
        return {name: value for name, value in settings.items() if name not in _OF_TRAINING}
    # its encoder alone is shared: the norm and finer maps are made by each model itself
    return {name: value for name, value in backbone.settings().items() if name not in ("norm", "upsampling")}


def needed_weights(backbone: Any, last: int) -> dict[str, Tensor]:  # noqa: ANN401 - any backbone
    """The weights that the outputs of an encoder up to a layer depend on, in the order of computation."""
    if not isinstance(backbone, PEBackbone):
        return dict(backbone.state_dict())
    needed = {}
    for name, tensor in backbone.encoder.state_dict().items():
        part, _, rest = name.partition(".")
        if part in _AFTER_BLOCKS or (part == "class_embedding" and not backbone.encoder.has_cls):
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
