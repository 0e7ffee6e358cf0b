"""The encoder of a checkpoint alone: neither heads nor teachers are built."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mmengine.registry import MODELS

from pe_spatial.backbones import PEBackbone, TimmBackbone
from pe_spatial.backbones.contract import with_layers
from pe_spatial.common.errors import CheckpointError, UserError
from pe_spatial.common.trees import sections
from pe_spatial.engines.header import is_exported
from pe_spatial.inference.exported_backbone import ExportedBackbone
from pe_spatial.inference.predictor import naming_config
from pe_spatial.training.checkpoint import load_checkpoint, read_config, resolve_checkpoint
from pe_spatial.training.checkpoint_content import weights_of
from pe_spatial.training.checkpoint_hook import compare_keys
from pe_spatial.training.config import drop_pretrained
from pe_spatial.training.frozen_encoders import encoder_records, restore_encoders, separable_backbones


def read_backbone(
    path: Path, layers: Sequence[int] | Literal["all"] | None = None
) -> tuple[PEBackbone | TimmBackbone | ExportedBackbone, Mapping[str, Any]]:
    """The encoder in a checkpoint and the config of its normalization; neither heads nor teachers are built.

    Args:
        path: Of the checkpoint, or the folder of a run; or an exported encoder.
        layers: That it returns, or all that it has; None takes those of the config.

    Raises:
        UserError: A folder without a checkpoint, or a model without an encoder.
    """
    file = resolve_checkpoint(path)
    if is_exported(file):
        return ExportedBackbone(file, layers=layers), {}
    content = load_checkpoint(file)
    config, weights = read_config(content, file), weights_of(content, file)
    kinds = ("PEBackbone", "TimmBackbone")
    encoders = (part for part in sections(config["model"], without="teachers") if part.get("type") in kinds)
    described = next(encoders, None)
    if described is None:
        raise UserError(f"{file}: {config['model'].get('type')} has no {' and no '.join(kinds)}")
    drop_pretrained(described)
    with naming_config(file):
        backbone = MODELS.build(with_layers(described, layers))
    suffix = f"encoder.{next(iter(backbone.encoder.state_dict()))}"
    prefixes = [*encoder_records(content, file), *(key[: -len(suffix)] for key in weights if key.endswith(suffix))]
    if not prefixes:
        raise UserError(f"{file}: has no weights for the encoder that its config describes")
    prefix = prefixes[0]
    restore_encoders(content, {prefix + name: part for name, part in separable_backbones(backbone)}, file)
    state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    if problem := compare_keys(backbone, state):
        raise CheckpointError(f"{file}: the weights do not fit the config in the same file: {problem}")
    backbone.load_state_dict(state)
    return backbone, config["model"].get("data_preprocessor") or config.get("data_preprocessor") or {}
