"""A model as it is shared: a folder with `model.safetensors`, `config.yaml`, `pe_spatial.json` and a page for readers.

The weights are whole, without adapters (LoRA) and without a training's state. The config is that of the run without
what names places on the machine it ran on. `pe_spatial.json` has {format_version, pe_spatial (version), metainfo of
the dataset, content_hash of the weights}; the hash ties the files together. Such a folder is a checkpoint like others.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from torch import Tensor

from pe_spatial import __version__
from pe_spatial.backbones.variants import VARIANTS
from pe_spatial.common.errors import CheckpointError, UserError, few
from pe_spatial.common.files import write_json, write_text
from pe_spatial.common.integrity import content_hash
from pe_spatial.common.reading import read_json, read_text
from pe_spatial.common.safe_yaml import parse, write
from pe_spatial.common.tensors import CONTENT_HASH, write_tensor_file
from pe_spatial.training.checkpoint_content import OURS

WEIGHTS, CONFIG, META, CARD = "model.safetensors", "config.yaml", "pe_spatial.json", "README.md"
NEEDED = (WEIGHTS, CONFIG, META)
_PLACES = ("data_root", "experiment_name", "load_from", "work_dir")  # name things of the machine even where relative
_LOCAL_LOGGERS = ("LocalVisBackend", "TensorboardVisBackend")  # the others hold accounts, and need to be trusted
_ABSOLUTE = re.compile(r"[/~\\]|[A-Za-z]:[\\/]|file:")


# --- writing ----------------------------------------------------------------------------------------------------------
def write_published(folder: Path, tensors: Mapping[str, Tensor], described: Mapping[str, Any], card: str) -> None:
    """Write a model to be shared.

    Args:
        folder: Exists and is empty.
        tensors: All weights of the model.
        described: What a checkpoint says of itself (`describe`), with a config from `without_places`.
        card: Text of `README.md`.

    Raises:
        CheckpointError: The state of the model holds something else than tensors, which the format does not know.
        OSError: The folder cannot be written, or the disk is full.
    """
    if others := [key for key, value in tensors.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{few(others)} of the model are not tensors, and {WEIGHTS} can store only tensors")
    write_tensor_file(tensors, folder / WEIGHTS)
    write_text(folder / CONFIG, write(json.loads(described["config"])))
    meta = {key: described[key] for key in ("format_version", "metainfo")}
    write_json(folder / META, {**meta, "pe_spatial": __version__, CONTENT_HASH: content_hash(tensors)})
    write_text(folder / CARD, card)


def without_places(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A config without what names places and accounts of this machine.

    Emptied (null) are `data_root`, `work_dir`, `load_from` and `experiment_name`, sources of weights that are no
    released encoders, and every absolute path, wherever it stands but in names of classes; loggers that report to a
    service are left out. Relative paths stay: they say how a dataset is laid out.

    Returns:
        The config, and the dotted keys of what was emptied or left out.
    """
    cleaned: dict[str, Any] = json.loads(json.dumps(config))  # a copy of plain lists and mappings
    changed = list(_empty(cleaned, ""))
    visualizer = cleaned.get("visualizer") or {}
    backends = visualizer.get("vis_backends") or []
    kept = [backend for backend in backends if backend.get("type") in _LOCAL_LOGGERS]
    if len(kept) < len(backends):
        visualizer["vis_backends"] = kept
        changed.append("visualizer.vis_backends")
    return cleaned, changed


def _empty(node: Any, prefix: str) -> Iterator[str]:
    """Set texts that are places to None, in place; yields their dotted keys."""
    pairs = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, value in pairs:
        if str(key).endswith("classes"):
            continue
        if isinstance(value, str) and _is_place(key, value):
            node[key] = None
            yield f"{prefix}{key}"
        yield from _empty(value, f"{prefix}{key}.")


def _is_place(key: object, text: str) -> bool:
    is_source = key == "weights" and text not in VARIANTS
    climbs = ".." in PurePosixPath(text).parts
    home = os.path.expanduser("~")
    names_home = home not in ("/", "~") and home in text
    return key in _PLACES or is_source or climbs or names_home or bool(_ABSOLUTE.match(text))


# --- reading ----------------------------------------------------------------------------------------------------------
def is_published(path: Path) -> bool:
    """Whether a file is the weights of a model that was written to be shared."""
    return path.name == WEIGHTS and (path.parent / META).is_file()


def read_published(path: Path, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint, made of the weights of a shared model and of the files beside them.

    The config is plain YAML: it builds on no other file and reads no variable.

    Raises:
        CheckpointError: A file beside the weights is missing or damaged.
    """
    try:
        meta = read_json(path.parent / META, {"format_version": int, CONTENT_HASH: str})
        config = json.dumps(parse(read_text(path.parent / CONFIG)))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: {CONFIG} is missing beside it; download the whole folder again") from error
    except yaml.YAMLError as error:
        raise CheckpointError(f"{path.parent / CONFIG}: not YAML: {' '.join(str(error).split())[:300]}") from error
    except (TypeError, ValueError, UserError) as error:
        raise CheckpointError(f"{error}; download the folder again") from error
    described = {key: meta.get(key) for key in ("format_version", "metainfo", CONTENT_HASH)}
    return {"meta": {}, "state_dict": dict(tensors), OURS: {**described, "config": config}}
