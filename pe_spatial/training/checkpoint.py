"""Checkpoint files: written whole or not at all, loaded without running code, found after a crash.

A file is a torch zip archive with mmengine's keys (`meta`, `state_dict`, `message_hub`, `optimizer`,
`param_schedulers`) and the key `pe_spatial`: {format_version, config (JSON of the resolved config), metainfo of the
dataset, log_history, content_hash of `state_dict`}. It holds tensors and plain containers only, so that torch's
weights-only loader can read it.
"""

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.config.config import RESERVED_KEYS
from mmengine.runner.checkpoint import CheckpointLoader

from pe_spatial.common.errors import CheckpointError, FullDiskError, UserError, few
from pe_spatial.common.reading import read_json, read_text
from pe_spatial.common.tensors import WeightsError, read_tensor_file, write_torch_file
from pe_spatial.common.trees import sections
from pe_spatial.engines.header import SUFFIXES, is_exported
from pe_spatial.engines.models import described
from pe_spatial.training import hub
from pe_spatial.training.checkpoint_content import check_content, describes_itself, seal
from pe_spatial.training.old_names import update_names
from pe_spatial.training.published import WEIGHTS, is_published, read_published
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
    seal(checkpoint)
    try:
        write_torch_file(checkpoint, path)
    except FullDiskError as error:
        raise CheckpointError(f"{error}. Earlier checkpoints are untouched: continue with --resume") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, memory-mapped on the CPU: copied page by page as it is used.

    That of an exported file (see `pe_spatial.engines`) is its config and its classes, without weights.

    Raises:
        CheckpointError: No such file, a truncated or damaged one, one that is no checkpoint, one that holds Python
            objects, or weights that are not finite.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; give a checkpoint file or the folder of a training run")
    if is_exported(path):
        return described(path)
    try:
        content = dict(read_tensor_file(path))
        content = read_published(path, content) if is_published(path) else content
        check_content(content, path)
    except WeightsError as error:
        remedy = "" if "earlier checkpoint" in str(error) else "; or use an earlier checkpoint"
        raise CheckpointError(f"{error}{remedy}") from error
    return content


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
    path = Path(path)
    described = describes_itself(checkpoint, path)
    if described["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format {described['format_version']} is newer than {FORMAT_VERSION}; update pe_spatial"
        )
    try:
        config = json.loads(described["config"])
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its config is not JSON ({error}); it is damaged; use another checkpoint"
        ) from error
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("type"), str):
        raise CheckpointError(
            f"{path}: its config is not a mapping with a section 'model' that has a type; it is damaged"
        )
    if reserved := [key for key in RESERVED_KEYS if key in config]:
        raise CheckpointError(
            f"{path}: its config has the keys {few(reserved)}, which a config cannot have; it is damaged"
        )
    config = update_names(config)
    require_trusted(config, lambda where: str(path))
    return config


# --- finding ----------------------------------------------------------------------------------------------------------
def find_last(folder: Path) -> Path | None:
    """The newest sound training checkpoint, or None."""
    return find_sound(_last_first(folder, []))[0]


def find_resumable(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest sound training checkpoint of a run, and what is wrong with what names it and with newer ones."""
    problems: list[str] = []
    found, damaged = find_sound(_last_first(folder, problems))
    return found, problems + damaged


def find_sound(candidates: Iterable[Path]) -> tuple[Path | None, list[str]]:
    """The first sound one of several checkpoints, and what is wrong with each before it."""
    problems = []
    for path in candidates:
        try:
            load_checkpoint(path)
        except (CheckpointError, OSError) as error:
            problems.append(str(error))
        else:
            return path, problems
    return None, problems


def _last_first(folder: Path, problems: list[str]) -> list[Path]:
    """Training checkpoints: the one that the run names as its last, then the others from the newest on."""
    newest = sorted(filter(Path.is_file, folder.glob("iter_*.pth")), key=iteration_of, reverse=True)
    pointer = folder / LAST_POINTER
    if not pointer.is_file():
        return newest
    try:
        name = read_text(pointer).strip()
        named = next((path for path in folder.glob("*.pth") if path.is_file() and path.name == Path(name).name), None)
        if named is None:
            raise CheckpointError(f"{pointer} names {name[:80]!r}, which is not there")
    except (UserError, OSError) as error:
        problems.append(f"{error}; the newest checkpoint beside it is taken")
        return newest
    return list(dict.fromkeys([named, *newest]))


def find_best(folder: Path) -> Path | None:
    """The checkpoint with the best metric so far if it is sound, or None."""
    return find_sound(_best_first(folder, []))[0]


def _best_first(folder: Path, problems: list[str]) -> list[Path]:
    """The checkpoint with the best metric; where its record is damaged, those that are called so, the newest first."""
    called = sorted(filter(Path.is_file, folder.glob("best_iter_*.pth")), key=iteration_of, reverse=True)
    try:
        record = read_best(folder)
    except (UserError, OSError) as error:
        problems.append(str(error))
        return called
    return [folder / Path(record["file"]).name] if record else []


def resolve_checkpoint(checkpoint: str | Path) -> Path:
    """The file that a checkpoint, the work folder of a training run, or a shared model stands for.

    Of a run it is the best checkpoint, or else the last. Damaged ones are passed over, which a warning says. A shared
    model is a folder as `pe-spatial push` writes it, or `hf://OWNER/NAME[@REVISION]`, which is fetched. The folder of
    an export stands for its file.

    Raises:
        CheckpointError: A folder without a complete checkpoint, or an address that cannot be fetched.
    """
    if hub.is_address(checkpoint):
        return hub.fetch(checkpoint)
    path = Path(checkpoint)
    if not path.is_dir():
        return path
    problems: list[str] = []
    best = _best_first(path, problems)
    shared = filter(is_published, [path / WEIGHTS])
    exported = filter(Path.is_file, (path / f"model{suffix}" for suffix in SUFFIXES))
    found, damaged = find_sound([*best, *_last_first(path, problems), *shared, *exported])
    problems += damaged
    if found is None:
        raise CheckpointError(
            f"{path}: the folder has no complete checkpoint; give a file with --checkpoint"
            + "".join(f"; {problem}" for problem in problems)
        )
    for problem in problems:
        warnings.warn(f"{problem}; {found.name} is taken", stacklevel=2)
    return found


def read_best(folder: Path) -> dict[str, Any] | None:
    """{file, metric, score, iter} of the best checkpoint so far, or None.

    Raises:
        UnreadableFile: The record is damaged.
    """
    pointer = folder / BEST_POINTER
    if not pointer.is_file():
        return None
    return read_json(pointer, {"file": str, "metric": str, "score": float, "iter": int})


def iteration_of(path: Path) -> int:
    """The iteration in the name of a checkpoint file, -1 if it has none."""
    digits = path.stem.rpartition("_")[2]
    return int(digits) if digits.isdigit() else -1
