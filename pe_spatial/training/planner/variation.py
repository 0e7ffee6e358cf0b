"""One way to train a model: with or without recomputed blocks, in which precision, and which weights; and its model."""

import inspect
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.registry import HOOKS, MODELS
from torch import nn

from pe_spatial.backbones import PEBackbone, get_variant
from pe_spatial.backbones.contract import sketch
from pe_spatial.backbones.vit import resolve_blocks
from pe_spatial.common.errors import ConfigError
from pe_spatial.common.parts import encoder_key
from pe_spatial.training.config import drop_pretrained

PRECISIONS = {"OptimWrapper": "fp32", "Bf16OptimWrapper": "bf16", "AmpOptimWrapper": "fp16"}
WRAPPERS = {precision: wrapper for wrapper, precision in PRECISIONS.items()}
LORA = {"rank": 16, "alpha": 16}  # what a plan tries where the config has none
_WHOLE = 8  # blocks; an encoder of as many is measured as it is
_SMALL_WINDOW = 8  # patches; attention takes memory by the token, whatever the side of its windows


@dataclass(frozen=True)
class Variation:
    """How a model is trained.

    Args:
        checkpointing: Whether the encoder's blocks are computed twice.
        precision: `fp32`, `bf16` or `fp16`.
        tuning: What of the encoder is trained: `full`, `partial` (without its first blocks), `lora` or `frozen`.
    """

    checkpointing: bool
    precision: str
    tuning: str


def variation_of(config: Any) -> Variation:
    """What a config asks for.

    Raises:
        ConfigError: Its model has no encoder, or nothing is trained.
    """
    backbone = config.model.get(encoder_key(config.model))
    if not backbone or not config.get("optim_wrapper"):
        raise ConfigError(
            "only a training of detection, segmentation, depth or alignment can be planned, with model.backbone (or "
            f"student) and optim_wrapper; {config.model.get('type')} has none"
        )
    frozen = backbone.get("frozen", False)
    tuning = "lora" if backbone.get("lora") else "frozen" if frozen is True else "partial" if frozen else "full"
    precision = PRECISIONS.get(config.optim_wrapper.get("type", "OptimWrapper"), "fp32")
    return Variation(bool(backbone.get("checkpointing")), precision, tuning)


def variations(config: Any) -> Iterator[Variation]:
    """The config's own first, then those that take less memory."""
    own = variation_of(config)
    precisions = [own.precision, *(["bf16"] if own.precision == "fp32" else [])]
    less = {"full": ["full", "lora", "frozen"], "partial": ["partial", "frozen"], "lora": ["lora", "frozen"]}
    key = encoder_key(config.model)
    is_ours = config.model[key].get("type") == PEBackbone.__name__
    # a student is trained whole
    for tuning in less.get(own.tuning, [own.tuning]) if is_ours and key == "backbone" else [own.tuning]:
        if tuning == "lora" and own.tuning != "lora" and not takes_lora():
            continue
        # a frozen encoder keeps nothing that could be computed again
        choices = [own.checkpointing, True] if is_ours and tuning != "frozen" else [own.checkpointing]
        for precision in precisions:
            for checkpointing in dict.fromkeys(choices):
                yield Variation(checkpointing, precision, tuning)


def takes_lora() -> bool:
    """Whether this version's backbone has adapters of low rank."""
    return "lora" in inspect.signature(PEBackbone.__init__).parameters


def settings_of(config: Any, variation: Variation) -> dict[str, Any]:
    """The entries (dotted key: value) by which a variation differs from its config."""
    own = variation_of(config)
    entries: dict[str, Any] = {}
    encoder = f"model.{encoder_key(config.model)}"
    if variation.precision != own.precision:
        entries["optim_wrapper.type"] = WRAPPERS[variation.precision]
    if variation.checkpointing != own.checkpointing:
        entries[f"{encoder}.checkpointing"] = variation.checkpointing
    if variation.tuning != own.tuning and variation.tuning == "frozen":
        entries[f"{encoder}.frozen"] = True
        if own.tuning == "lora":
            entries[f"{encoder}.lora"] = None
    if variation.tuning != own.tuning and variation.tuning == "lora":
        entries[f"{encoder}.lora"] = dict(LORA)
    return entries


# --- models -----------------------------------------------------------------------------------------------------------
def model_settings(config: Any, variation: Variation) -> dict[str, Any]:
    """The settings of the model of a variation, without weights to load and without a size to pad to."""
    model: dict[str, Any] = deepcopy(config.model.to_dict())
    encoder = encoder_key(model)
    for key, value in settings_of(config, variation).items():
        if key.startswith(f"model.{encoder}."):
            model[encoder][key.rpartition(".")[2]] = value
    drop_pretrained(model)
    drop_pretrained(list((model.get("teachers") or {}).values()))
    (model.get("data_preprocessor") or {}).pop("pad_to", None)
    return model


def build_model(settings: dict[str, Any], device: str) -> Any:
    """A model in training mode that knows some classes, on a device; `meta` takes no memory."""
    with torch.device(device):
        model = MODELS.build(deepcopy(settings))
    count = settings.get("num_classes") or 1
    metainfo = {"classes": tuple(map(str, range(count))), "image_counts": [1] * count}
    for part in model.modules() if device != "meta" else ():
        if hasattr(part, "bind_dataset"):
            part.bind_dataset(metainfo)
    return model.train()


def prepare_iteration(config: Any, model: nn.Module) -> None:
    """Let the hooks of the model's package set what they set before the first iteration of a training."""
    runner = type("FirstIteration", (), {"iter": 0, "max_iters": 1000, "model": model})()
    for settings in (config.get("default_hooks") or {}).values():
        kind = HOOKS.get(settings["type"]) if settings else None
        package = getattr(kind, "__module__", "").split(".")[:2]
        if kind is not None and package[0] == "pe_spatial" and package[1] not in ("training", "doctor"):
            HOOKS.build(settings).before_train_iter(runner, 0)


@dataclass(frozen=True)
class Depth:
    """How many blocks of an encoder are trained.

    Args:
        whole: In the config's model.
        small: In the two models that are measured; equal if the model is measured as it is.
    """

    whole: int
    small: tuple[int, int]


def depth_of(settings: dict[str, Any]) -> Depth:
    """The depths of a model; an encoder that is not ours has one block, so to say."""
    backbone = settings[encoder_key(settings)]
    if backbone.get("type") != PEBackbone.__name__:
        return Depth(1, (1, 1))
    blocks = resolve_blocks(backbone.get("layers", (-1,)), get_variant(backbone["variant"]).depth)
    used, frozen = max(blocks) + 1, backbone.get("frozen", False)
    if used <= _WHOLE:
        return Depth(used, (used, used))
    least = max(4, len(set(blocks)), settings.get("num_blocks", 0) + 1)
    trained = used if isinstance(frozen, bool) else used - frozen
    return Depth(trained, (least, least + 2)) if trained > least + 2 else Depth(used, (used, used))


def with_depth(settings: dict[str, Any], blocks: int) -> dict[str, Any]:
    """The settings of the same model with so many trained blocks and small windows, and teachers as shallow."""
    settings, depth = deepcopy(settings), depth_of(settings)
    for teacher in (settings.get("teachers") or {}).values():
        _shorten_teacher(teacher, blocks, depth)
    backbone = settings[encoder_key(settings)]
    if backbone.get("type") != PEBackbone.__name__:
        return settings
    config = get_variant(backbone["variant"])
    taken = resolve_blocks(backbone.get("layers", (-1,)), config.depth)
    if depth.small != (blocks, blocks):
        distinct = sorted(set(taken))
        backbone["variant"] = replace(config, depth=blocks)
        backbone["layers"] = [distinct.index(layer) - len(distinct) for layer in taken]
        backbone["frozen"] = False if not isinstance(backbone.get("frozen"), bool) else backbone["frozen"]
        if backbone.get("global_blocks"):
            backbone["global_blocks"] = list(range(-max(1, settings.get("num_blocks", 1)), 0))
    if backbone.get("window"):
        backbone["window"] = min(backbone["window"], _SMALL_WINDOW)
    return settings


def _shorten_teacher(teacher: dict[str, Any], blocks: int, depth: Depth) -> None:
    """Take blocks from a teacher, in place, so that what is affine in the student's blocks meets the whole teacher.

    Of a teacher that is read at block T the model of b blocks has T - k (S - b) / 2, where S are those of the whole
    student and k is the largest number that leaves one to the smallest model.
    """
    least, more = depth.small
    if "variant" not in teacher or least == more:
        return
    with torch.device("meta"):
        read = MODELS.build(teacher).backbone.layers[0] + 1
    steps = (depth.whole - least) // (more - least)
    per_step = (read - 1) // steps
    left = read - per_step * (steps - (blocks - least) // (more - least))
    teacher["variant"], teacher["layer"] = replace(get_variant(teacher["variant"]), depth=left), -1


def side_unit(settings: dict[str, Any], small: bool = False) -> int:
    """Pixels of which the sides of an image are multiples, so that patches and windows fit."""
    backbone = settings[encoder_key(settings)]
    if backbone.get("type") != PEBackbone.__name__:
        divisor = (settings.get("data_preprocessor") or {}).get("size_divisor")
        return int(divisor or sketch(backbone).patch_size)
    patch = backbone.get("patch_size") or get_variant(backbone["variant"]).patch_size
    window = backbone.get("window") or 1
    return patch * (min(window, _SMALL_WINDOW) if small else window)
