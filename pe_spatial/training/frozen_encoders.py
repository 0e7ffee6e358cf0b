"""Checkpoints without a frozen encoder that is found again where it came from, under adapters (LoRA) or foreign.

Such a checkpoint holds the heads and, with LoRA, the adapters, and in its entry `pe_spatial` the key `encoders`: for
the name of each backbone whose encoder was left out, its source and the hash of the encoder in that file. A model that
loads the checkpoint has read the encoder from the source that its config names, and the hashes must agree. An encoder
that has no source, or is no longer what the source holds, is stored as always.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pe_spatial.backbones import PEBackbone, TimmBackbone
from pe_spatial.backbones.contract import comes_from_its_file
from pe_spatial.backbones.lora import is_adapter
from pe_spatial.backbones.weights import Origin, merge_command
from pe_spatial.common.errors import CheckpointError
from pe_spatial.common.integrity import content_hash
from pe_spatial.common.trees import sections
from pe_spatial.training.checkpoint_content import OURS

ENTRY = "encoders"
_STATES = {"state_dict": "", "ema_state_dict": "module."}  # key of a checkpoint -> what it puts before every name


def adapted_backbones(model: nn.Module) -> Iterator[tuple[str, PEBackbone]]:
    """(prefix of its names, backbone) of every backbone of a model that has adapters."""
    for prefix, module in separable_backbones(model):
        if isinstance(module, PEBackbone):
            yield prefix, module


def separable_backbones(model: nn.Module) -> Iterator[tuple[str, PEBackbone | TimmBackbone]]:
    """(prefix of its names, backbone) of every backbone whose encoder checkpoints may do without.

    These are encoders under adapters, and frozen ones of others that came from a file.
    """
    for name, module in model.named_modules():
        is_adapted = isinstance(module, PEBackbone) and module.lora is not None
        if is_adapted or (isinstance(module, TimmBackbone) and module.origin is not None):
            yield (f"{name}." if name else ""), module


def leave_out_encoders(state: dict[str, Any], model: nn.Module) -> None:
    """Take the encoders that can be found again out of the content of a checkpoint, in place."""
    for prefix, backbone in separable_backbones(model):
        names = {key: f"{prefix}encoder.{key}" for key in backbone.frozen_state()}
        current = {key: state["state_dict"][name] for key, name in names.items()}
        if backbone.origin is None or not is_as_loaded(backbone.origin, current):
            continue
        for key, before in _STATES.items():
            for name in names.values():
                state.get(key, {}).pop(before + name, None)
        record = {"source": backbone.origin.source, "hash": backbone.origin.file_hash}
        state[OURS].setdefault(ENTRY, {})[prefix] = record


def is_as_loaded(origin: Origin, state: Mapping[str, Tensor]) -> bool:
    """Whether an encoder is still the one of its source; another checkpoint may have been loaded over it.

    Args:
        origin: Of the encoder.
        state: Its state dict.
    """
    return content_hash(state) == origin.loaded_hash


def restore_encoders(
    content: Mapping[str, Any], backbones: Mapping[str, PEBackbone | TimmBackbone], path: str | Path
) -> None:
    """Put the encoders that a checkpoint does without into its weights, in place.

    Args:
        content: Of the checkpoint.
        backbones: Those of `separable_backbones` of the model that is to be loaded, by the prefix of their names.
        path: Of the checkpoint, for messages.

    Raises:
        CheckpointError: The model has another encoder, or none from a file; or it has no adapters, but the checkpoint.
    """
    are_adapted = any(isinstance(backbone, PEBackbone) for backbone in backbones.values())
    if not are_adapted and any(map(is_adapter, content.get("state_dict", content))):
        raise CheckpointError(
            f"{path}: contains LoRA adapters, but the model of the config has none; set lora of the backbone as in "
            f"the checkpoint's config, or merge the adapters first: {merge_command(path)}"
        )
    for prefix, record in encoder_records(content, path).items():
        backbone, source = backbones.get(prefix), record["source"]
        where = f"{prefix}weights"
        if backbone is None:
            raise CheckpointError(
                f"{path}: was saved without its encoder {prefix}encoder, which came from {source}; the config needs a "
                f"frozen encoder from a file there; set model.{where}={source}"
            )
        if backbone.origin is None:
            raise CheckpointError(
                f"{path}: was saved without its encoder, which came from {source}, and the config names none; set "
                f"model.{where}={source}"
            )
        if backbone.origin.file_hash != record["hash"]:
            raise CheckpointError(
                f"{path}: was trained on the encoder of {source} (hash {record['hash'][:12]}), but "
                f"{backbone.origin.source} is another encoder (hash {backbone.origin.file_hash[:12]}); set "
                f"model.{where} to the file that it was trained on"
            )
        for key, tensor in backbone.frozen_state().items():
            for state, before in _STATES.items():
                if state in content:
                    content[state][f"{before}{prefix}encoder.{key}"] = tensor


def encoder_records(content: Mapping[str, Any], path: str | Path) -> Mapping[str, Mapping[str, str]]:
    """{prefix: {source, hash}} of the encoders that a checkpoint does without.

    Raises:
        CheckpointError: The entry is damaged.
    """
    described = content.get(OURS)
    records = described.get(ENTRY, {}) if isinstance(described, Mapping) else {}
    is_sound = isinstance(records, Mapping) and all(
        isinstance(record, Mapping) and all(isinstance(record.get(key), str) for key in ("source", "hash"))
        for record in records.values()
    )
    if not is_sound:
        raise CheckpointError(f"{path}: its entry {OURS}.{ENTRY} is damaged; use another checkpoint")
    return records


def find_sources_from_anywhere(model: Any) -> None:  # noqa: ANN401 - section of a config
    """Make the paths of encoders absolute, in place, where checkpoints do without these encoders."""
    for part in sections(model):
        source = part.get("weights")
        if comes_from_its_file(part) and isinstance(source, str) and Path(source).expanduser().exists():
            part["weights"] = str(Path(source).expanduser().absolute())
