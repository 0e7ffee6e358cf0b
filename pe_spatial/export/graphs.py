"""From a graph of torch's modules to a program, and from that to ONNX."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pe_spatial.common.errors import OptionError
from pe_spatial.common.graphs import NetworkGraph
from pe_spatial.export.options import ExportOptions

_LARGEST_MESSAGE = 2**31 - 2**24  # bytes of a protobuf message, with some room for the graph itself


def example_inputs(graph: NetworkGraph, size: tuple[int, int], batch: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs of a graph.

    Args:
        graph: Takes `images`, and maybe `image_sizes` [B, 2], (H, W) without padding.
        size: (H, W).
        batch: B.
        seed: Of the images.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, *size, generator=generator)
    known = {"images": images, "image_sizes": torch.tensor([size], dtype=torch.float32).repeat(batch, 1)}
    return tuple(known[name] for name in graph.inputs)


def example_size(graph: NetworkGraph, options: ExportOptions) -> tuple[int, int]:
    """The size of examples: that of the file, else one that is open."""
    if options.image_size is not None:
        return options.image_size
    return graph.example[0] * graph.multiple, graph.example[1] * graph.multiple


def program_of(graph: NetworkGraph, options: ExportOptions) -> Any:
    """The graph as `torch.export.ExportedProgram`.

    Raises:
        OptionError: Something in it cannot be traced, or fixes what should stay open.
    """
    batch = options.batch or 2
    inputs = example_inputs(graph, example_size(graph, options), batch)
    axes = {0: torch.export.Dim.DYNAMIC} if options.batch is None else {}
    sides = {} if options.image_size is not None else dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
    shapes = tuple({**axes, **sides} if name == "images" else axes for name in graph.inputs)
    try:
        with _quiet():
            return torch.export.export(graph.module.eval(), inputs, dynamic_shapes=(shapes,), strict=False)
    except Exception as error:  # torch's errors of tracing have no common class
        reason = " ".join(str(error).split())[:400]
        open_ones = " or ".join(
            name
            for name, given in (("--image-size", options.image_size), ("--batch-size", options.batch))
            if given is None
        )
        remedy = f"; give {open_ones}, so that less stays open" if open_ones else ""
        raise OptionError(f"the model cannot be traced ({type(error).__name__}: {reason}){remedy}") from error


def onnx_of(program: Any, graph: NetworkGraph) -> Any:
    """The program as `torch.onnx.ONNXProgram`.

    Raises:
        OptionError: An operator that ONNX lacks; it is named.
    """
    try:
        with _quiet():
            return torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=list(graph.inputs), output_names=list(graph.outputs)
            )
    except Exception as error:  # torch's errors of translation have no common class
        causes = [error, *_causes(error)]
        reason = next((text for text in map(str, causes) if "No ONNX function" in text or "Unsupported" in text), "")
        text = " ".join((reason or str(causes[-1])).split())[:400]
        raise OptionError(f"ONNX cannot express a part of the model: {text}; try --to pt2") from error


def save_onnx(proto: Any, path: Path) -> list[Path]:
    """Write an ONNX graph; weights beyond 2 GB go into a file beside it. Returns what was written."""
    import onnx

    if proto.ByteSize() < _LARGEST_MESSAGE:
        onnx.save_model(proto, str(path))
        return [path]
    name = f"{path.name}.data"
    onnx.save_model(proto, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=name)
    return [path, path.with_name(name)]


def is_large(proto: Any) -> bool:
    """Whether weights go into a file of their own."""
    return bool(proto.ByteSize() >= _LARGEST_MESSAGE)


def _causes(error: BaseException) -> Iterator[BaseException]:
    while error.__cause__ is not None:
        error = error.__cause__
        yield error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines of torch's exporter, which are for its developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
