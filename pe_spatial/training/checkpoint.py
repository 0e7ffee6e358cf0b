"""Checkpoint files: written whole or not at all, loaded without running code, found after a crash.

A file is a torch zip archive with mmengine's keys (`meta`, `state_dict`, `message_hub`, `optimizer`,
`param_schedulers`) and the key `pe_spatial`: {format_version, config (JSON of the resolved config), metainfo of the
dataset, log_history}. It holds tensors and plain containers only, so that torch's weights-only loader can read it.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader

from pe_spatial.common.errors import CheckpointError, FullDiskError, few
from pe_spatial.common.tensors import WeightsError, read_tensor_file, write_torch_file
from pe_spatial.common.trees import sections
from pe_spatial.training.old_names import update_names
from pe_spatial.training.trust import require_trusted

FORMAT_VERSION = 1
LAST_POINTER = "last_checkpoint"  # holds a file name; mmengine's name for it
BEST_POINTER = "best_checkpoint.json"
SCHEME = "pe_spatial://"  # before the paths that mmengine's Runner loads from


# --- writing and loading ----------------------------------------------------------------------------------------------
def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Stream a checkpoint to disk; no second copy of it is made in memory.

    Raises:
        CheckpointError: The disk is full, or the folder cannot be written. Nothing was changed.
    """
    try:
        write_torch_file(checkpoint, path)
    except FullDiskError as error:
        raise CheckpointError(f"{error}. Earlier checkpoints are untouched: continue with --resume") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, memory-mapped on the CPU: copied page by page as it is used.

    Raises:
        CheckpointError: No such file, a truncated one, one that is no checkpoint, or one that holds Python objects.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        return dict(read_tensor_file(path))
    except WeightsError as error:
        raise CheckpointError(f"{error}; or take an earlier checkpoint") from error


def read_safely(settings: dict[str, Any]) -> None:
    """Mark the local files that a config names, in place, so that mmengine's Runner reads them with `load_checkpoint`.

    Its own reader falls back to unpickling anything. Ours has a prefix instead of that reader's place, for others in
    the process may rely on theirs. Marked are `load_from` and the `Pretrained` of a part's `init_cfg`; addresses stay.
    """
    if settings.get("load_from"):
        settings["load_from"] = _marked(settings["load_from"])
    for part in sections(settings):
        if part.get("type") == "Pretrained" and "checkpoint" in part:
            part["checkpoint"] = _marked(part["checkpoint"])


def _marked(path: str) -> str:
    return path if "://" in path else SCHEME + path


def plain_path(path: str) -> str:
    """A path without the mark of `read_safely`, for messages."""
    return path.removeprefix(SCHEME)


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def load_from_pe_spatial(filename: str, map_location: Any = None) -> dict[str, Any]:
    """What mmengine calls for a path with our prefix.

    The content stays on the CPU whatever mmengine asks for: a second copy of the weights and of the optimizer's state
    on the GPU would double the memory that a resume needs.
    """
    content = load_checkpoint(plain_path(filename))
    if isinstance(content.get("meta"), dict):
        content["meta"].pop("config", None)  # mmengine would run it as Python when it resumes
    return content


def read_config(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The resolved config that a checkpoint was trained with.

    Raises:
        CheckpointError: Not one of our checkpoints.
        ConfigError: The config could make the program run code which nobody has asked for.
    """
    described = checkpoint.get("pe_spatial")
    if not isinstance(described, dict) or "config" not in described:
        raise CheckpointError(
            f"{path}: holds weights but no config (keys: {few(checkpoint, 8)}); only "
            "checkpoints written by tools/train_net.py or tools/convert_weights.py describe themselves"
        )
    if described["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format {described['format_version']} is newer than {FORMAT_VERSION}; update pe_spatial"
        )
    config = update_names(json.loads(described["config"]))
    require_trusted(config, lambda where: str(path))
    return config


# --- finding ----------------------------------------------------------------------------------------------------------
def find_last(folder: Path) -> Path | None:
    """The newest complete training checkpoint, or None. A truncated file is passed over."""
    pointer = folder / LAST_POINTER
    candidates = [folder / Path(pointer.read_text().strip()).name] if pointer.is_file() else []
    candidates += sorted(folder.glob("iter_*.pth"), key=iteration_of, reverse=True)
    return next((path for path in candidates if zipfile.is_zipfile(path)), None)


def find_best(folder: Path) -> Path | None:
    """The checkpoint with the best metric so far, or None."""
    record = read_best(folder)
    path = folder / Path(record["file"]).name if record else None  # never outside the folder
    return path if path and zipfile.is_zipfile(path) else None


def resolve_checkpoint(checkpoint: str | Path) -> Path:
    """The file that a checkpoint, or the work folder of a training run, stands for.

    Raises:
        CheckpointError: A folder without a complete checkpoint.
    """
    path = Path(checkpoint)
    if not path.is_dir():
        return path
    found = find_best(path) or find_last(path)
    if found is None:
        raise CheckpointError(f"{path}: a folder without a complete checkpoint; name a file with --checkpoint")
    return found


def read_best(folder: Path) -> dict[str, Any] | None:
    """{file, metric, score, iter} of the best checkpoint so far."""
    pointer = folder / BEST_POINTER
    return json.loads(pointer.read_text()) if pointer.is_file() else None


def iteration_of(path: Path) -> int:
    """The iteration in the name of a checkpoint file, -1 if it has none."""
    digits = path.stem.rpartition("_")[2]
    return int(digits) if digits.isdigit() else -1
