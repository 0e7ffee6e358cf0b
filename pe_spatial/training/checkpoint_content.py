"""What a checkpoint must hold to be sound: entries of the right kinds, finite weights, and those that were saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pe_spatial.common.errors import CheckpointError, few
from pe_spatial.common.integrity import content_hash, layout_of, once_per_file
from pe_spatial.common.tensors import CONTENT_HASH, require_finite, verify_hash

OURS = "pe_spatial"  # the entry by which a checkpoint describes itself
_WEIGHTS = ("state_dict", "ema_state_dict")
_WRAPPERS = ("module.", "_orig_mod.")  # what DDP and torch.compile put before every name
_NEEDED_TO_RESUME: dict[str, type | tuple[type, ...]] = {"meta": Mapping, "message_hub": Mapping, "optimizer": Mapping}
_LONGEST_NAME = 1000
_OF_THE_HUB = ("log_scalars", "runtime_info", "resumed_keys")


def seal(checkpoint: dict[str, Any]) -> None:
    """Note the hash of the weights in the entry by which a checkpoint describes itself, if it has one."""
    if isinstance(checkpoint.get(OURS), dict) and isinstance(checkpoint.get("state_dict"), Mapping):
        checkpoint[OURS][CONTENT_HASH] = content_hash(checkpoint["state_dict"])


def check_content(content: dict[str, Any], path: Path) -> None:
    """Refuse what is no sound checkpoint, and take the names of wrappers off the names of its weights, in place.

    A file without `state_dict` is one of weights alone, such as those of other libraries.

    Raises:
        CheckpointError: Weights that are no mapping of names to tensors.
        WeightsError: Weights that are not finite, or not those that were saved.
    """
    for key in _WEIGHTS:
        if key in content:
            _check_names(content[key], key, path)
    stored = content[OURS].get(CONTENT_HASH) if isinstance(content.get(OURS), Mapping) else None
    weights = content.get("state_dict", {})
    if stored is not None and "state_dict" in content:
        once_per_file(path, CONTENT_HASH, lambda: verify_hash(path, weights, stored))
    numbers = {key: content[key] for key in (*_WEIGHTS, "optimizer") if key in content}
    once_per_file(path, "finite", lambda: require_finite(path, numbers or content))
    if weights:
        content["state_dict"] = _without_wrappers(weights)


def check_resumable(content: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint that training cannot go on from.

    Raises:
        CheckpointError: Names what is missing or of another kind.
    """
    if "optimizer" not in content:
        raise CheckpointError(f"{path}: contains only weights and cannot be resumed; use load_from instead")
    wrong = [key for key, kind in _NEEDED_TO_RESUME.items() if not isinstance(content.get(key), kind)]
    meta = content.get("meta")
    if isinstance(meta, Mapping):
        wrong += [f"meta.{key}" for key in ("iter", "epoch", "seed") if not _is_count(meta.get(key))]
    hub = content.get("message_hub")
    if isinstance(hub, Mapping):
        wrong += [f"message_hub.{key}" for key in _OF_THE_HUB if not isinstance(hub.get(key), Mapping)]
    history = content[OURS].get("log_history", {}) if isinstance(content.get(OURS), Mapping) else {}
    if not isinstance(history, Mapping):
        wrong.append(f"{OURS}.log_history")
    else:
        wrong += [f"{OURS}.log_history.{key}" for key, values in history.items() if not _are_numbers(values)]
    if wrong:
        raise CheckpointError(
            f"{path}: training cannot continue from it: {few(wrong)} missing or of a wrong type; use another "
            "checkpoint, or start from its weights with load_from"
        )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _are_numbers(values: object) -> bool:
    return isinstance(values, list | tuple) and all(type(value) in (int, float) for value in values)


def weights_of(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights of a model in a checkpoint.

    Raises:
        CheckpointError: It has none.
    """
    if "state_dict" not in content:
        raise CheckpointError(
            f"{path}: contains no weights of a model: there is no 'state_dict' among its keys {few(content, 8)}"
        )
    return content["state_dict"]


def describes_itself(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The entry with the config of a checkpoint.

    Raises:
        CheckpointError: Not one of our checkpoints, or a damaged one.
    """
    described = content.get(OURS)
    if not isinstance(described, Mapping) or "config" not in described:
        raise CheckpointError(
            f"{path}: contains weights but no config (keys: {few(content, 8)}); use "
            "a checkpoint that pe-spatial train or pe-spatial convert wrote"
        )
    version = described.get("format_version")
    if type(version) is not int or version < 1:
        raise CheckpointError(
            f"{path}: has no valid format_version ({version!r}, not a number of at least 1): it is damaged or was "
            "changed; use another checkpoint"
        )
    metainfo = described.get("metainfo")
    classes = metainfo.get("classes", ()) if isinstance(metainfo, Mapping) else ()
    if not isinstance(metainfo, Mapping | None):
        raise CheckpointError(f"{path}: its metainfo is a {type(metainfo).__name__}, not a mapping; it is damaged")
    if not isinstance(classes, list | tuple | None) or not all(isinstance(name, str) for name in classes or ()):
        raise CheckpointError(f"{path}: the classes in its metainfo are not a list of names; it is damaged")
    _check_metainfo(metainfo or {}, path)
    return described


def _check_metainfo(metainfo: Mapping[str, Any], path: Path) -> None:
    names, colors = metainfo.get("classes") or (), metainfo.get("palette") or ()
    if any(len(name) > _LONGEST_NAME for name in names):
        raise CheckpointError(f"{path}: a class in its metainfo has more than {_LONGEST_NAME} letters; it is damaged")
    is_palette = isinstance(colors, list | tuple) and all(
        isinstance(color, list | tuple) and len(color) == 3 and all(value in range(256) for value in color)
        for color in colors
    )
    if not is_palette or (colors and len(colors) < len(names)):
        raise CheckpointError(
            f"{path}: the palette of its metainfo is not {len(names)} colors [r, g, b] from 0 to 255; it is damaged"
        )


def _check_names(weights: object, key: str, path: Path) -> None:
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"{path}: its {key} is a {type(weights).__name__}, not a mapping of names to tensors")
    for name, value in weights.items():
        if not isinstance(name, str) or not (isinstance(value, Tensor) or name.endswith("_extra_state")):
            raise CheckpointError(
                f"{path}: {key}[{name!r}] is a {type(value).__name__}, not a tensor with a name; save the state dict "
                "of a model"
            )
        kind = layout_of(value) if isinstance(value, Tensor) else "dense"
        if kind != "dense":
            raise CheckpointError(f"{path}: {key}[{name!r}] is {kind}, but weights must be dense tensors; convert it")


def _without_wrappers(weights: Mapping[str, Any]) -> Mapping[str, Any]:
    while prefix := next((each for each in _WRAPPERS if all(name.startswith(each) for name in weights)), ""):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights
