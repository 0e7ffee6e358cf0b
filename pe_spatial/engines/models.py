"""Which engine runs the network of a model, and how it gets there."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pe_spatial.common.errors import CheckpointError, OptionError, UserError, few, require_choice
from pe_spatial.common.graphs import Engine, Exportable, NetworkGraph
from pe_spatial.common.reading import read_json
from pe_spatial.engines.bridge import open_engine
from pe_spatial.engines.header import SUFFIXES, is_exported, read_header
from pe_spatial.engines.proof import PROOF, proof_of, sha256
from pe_spatial.engines.sessions import ENGINES, choose_engine

EXPORTED = "exported"  # the folder of a run in which its exports lie

# what a model does around its network, so that an exported file leaves it open
AROUND = ("window", "tta", "slices", "tiling", "flip_test", "data_preprocessor", "postprocess", "outputs")


def find_file(checkpoint: Path, asked: str | None) -> tuple[Path, str]:
    """What to load, and the engine for it.

    Args:
        checkpoint: A checkpoint or an exported file.
        asked: One of `ENGINES`. None: torch for checkpoints, and `auto` for exported files. With `auto`, the fastest
            export of a checkpoint that lies in `exported` beside it and has passed its proof is taken instead of it,
            if it was faster than torch there.

    Raises:
        OptionError: An engine that does not run such a file.
        CheckpointError: As of `choose_engine`.
    """
    if is_exported(checkpoint):
        read_header(checkpoint)
        return checkpoint, choose_engine(checkpoint, asked or "auto")
    require_choice("engine", asked or "torch", ENGINES)
    if asked == "auto":
        return _fastest_export(checkpoint)
    if asked in (None, "torch", "compile"):
        return checkpoint, asked or "torch"
    target = "openvino" if asked == "openvino" else "onnx"
    raise OptionError(
        f"--engine {asked} runs exported files, and {checkpoint} is a checkpoint; first: "
        f"pe-spatial export {checkpoint} --to {target}"
    )


def _fastest_export(checkpoint: Path) -> tuple[Path, str]:
    """The fastest proven export of a checkpoint, else the checkpoint itself."""
    found: list[tuple[float, Path, str]] = []
    for record in sorted((checkpoint.parent / EXPORTED).glob(f"*/{PROOF}")):
        try:
            content = read_json(record, {"source": dict, "files": dict})
            if content["source"].get("sha256") != sha256(checkpoint):
                continue
            path = next(record.parent / name for name in content["files"] if name.endswith(SUFFIXES))
            engine, proof = choose_engine(path), proof_of(path)
            assert proof is not None, "choose_engine has read it"
            measured = proof.engines[engine]
            if measured["seconds"] < measured["torch_seconds"]:
                found.append((measured["seconds"] / measured["torch_seconds"], path, engine))
        except (UserError, OSError, StopIteration) as error:
            warnings.warn(f"{record} is passed over: {error}", stacklevel=2)
    return min(found)[1:] if found else (checkpoint, "torch")


def require_same_network(path: Path, model: Mapping[str, Any]) -> None:
    """Refuse settings of a network that an exported file has fixed.

    Args:
        path: The exported file.
        model: The section of the config, with what was changed in it.

    Raises:
        OptionError: Names what differs.
    """
    stored = json.loads(read_header(path).config)["model"]
    changed = [key for key in sorted({*stored, *model}) if key not in AROUND and stored.get(key) != model.get(key)]
    if changed:
        raise OptionError(
            f"{path}: model.{changed[0]} is fixed in an exported file (you can change {few(AROUND, len(AROUND))}); "
            "export the checkpoint again with the other value"
        )


def equip(model: nn.Module, path: Path, engine: str, device: torch.device) -> None:
    """Let an engine run the network of a model.

    Args:
        model: Has its weights, or is about to lose them to an exported file.
        path: What `find_file` has found.
        engine: Likewise.
        device: Where it computes.

    Raises:
        OptionError: A model that has no graph, or a graph that cannot stand in for its network.
    """
    if engine == "torch" and not is_exported(path):
        return
    if not isinstance(model, Exportable):
        raise OptionError(f"{path}: holds a {type(model).__name__}, which has no graph; leave out --engine {engine}")
    if engine == "compile":
        model.use_engine(_compiled(model.graph()))
        return
    run, header = open_engine(path, engine, device)
    if header.kind:
        raise OptionError(
            f"{path}: contains the graph {header.kind!r}, which cannot replace the network of its model; run it with "
            "the engine itself, or export the checkpoint without --graph"
        )
    shed(model)
    model.use_engine(run)


def shed(model: nn.Module) -> None:
    """Let a model go without its weights; its preprocessor keeps what it has."""
    for name, part in model.named_children():
        for module in part.modules() if name != "data_preprocessor" else ():
            for key in [*module._parameters]:
                module.register_parameter(key, None)
            for key in [*module._buffers]:
                module.register_buffer(key, None)


def _compiled(graph: NetworkGraph) -> Engine:
    compiled: Any = torch.compile(graph.module, dynamic=None)
    return compiled


def described(path: Path) -> dict[str, Any]:
    """An exported file as the content of a checkpoint without weights: its config and the names of its classes.

    Raises:
        CheckpointError: As of `read_header`, or an encoder alone.
    """
    header = read_header(path)
    if "model" not in json.loads(header.config):
        raise CheckpointError(
            f"{path}: contains only an encoder, which predicts nothing; for its maps use FeatureExtractor(file), or "
            "pe_spatial.runtime without torch"
        )
    return {
        "meta": {},
        "pe_spatial": {"format_version": 1, "config": header.config, "metainfo": dict(header.metainfo)},
    }
