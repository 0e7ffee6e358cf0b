"""Layer by layer: where an exported graph begins to compute something else than the program it was made of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from pe_spatial.engines.header import Header
from pe_spatial.engines.sessions import OnnxRuntimeSession, OpenVINOSession, Session

Values = dict[str, NDArray[Any]]  # those inside a graph, by name

_SCOPES = "pkg.torch.onnx.name_scopes"
_MOST = 160  # values that are compared; more would be in memory at once


@dataclass(frozen=True)
class LayerDrift:
    """How far one value of the graph is off.

    Args:
        layer: The module that computes it, as in the model.
        value: Its name in the graph.
        operator: That computes it.
        drift: The root mean square of the difference, over that of the value.
        largest: The largest difference.
        grown: How much of the drift is not in its inputs yet.
    """

    layer: str
    value: str
    operator: str
    drift: float
    largest: float
    grown: float

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Traced:
    """What a file was made of.

    Args:
        program: `torch.export.ExportedProgram`, after the decompositions of ONNX.
        proto: The ONNX graph in the precision of the file; None where the format has none.
        layers: The module of every value of the graph, as of `layers_of`.
    """

    program: Any
    proto: Any = None
    layers: Mapping[str, str] = field(default_factory=dict)


def values_of(traced: Traced, inputs: Sequence[Tensor]) -> Values:
    """The values inside a program that its graph has too, at most `_MOST` of them.

    Args:
        traced: The graph and its program.
        inputs: Of both.
    """
    return _values_of(traced.program, inputs, set(_chosen(traced)))


def compare_layers(
    traced: Traced, header: Header, engine: str, inputs: Sequence[Tensor], expected: Values
) -> list[LayerDrift]:
    """The drift of the values that a graph and its program have in common, in the order of the graph.

    Args:
        traced: The graph and its program.
        header: Of the file.
        engine: `onnxruntime` or `openvino`.
        inputs: Of the graph.
        expected: As of `values_of`, for the same inputs.
    """
    proto, chosen = traced.proto, _chosen(traced)
    if not chosen:
        return []
    found = _run_open(proto, header, engine, [tensor.numpy() for tensor in inputs], list(chosen))
    makers = {output: node for node in proto.graph.node for output in node.output}
    drifts: dict[str, float] = {}
    result = []
    for name, (layer, node) in chosen.items():
        ours, theirs = expected.get(name), found.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape or ours.size == 0:
            continue
        difference = theirs.astype(np.float64) - ours
        size = float(np.sqrt(np.mean(np.square(ours, dtype=np.float64)))) or 1.0
        drift = float(np.sqrt(np.mean(np.square(difference)))) / size
        before = max((drifts[each] for each in _before(makers, node, drifts)), default=0.0)
        drifts[name] = drift if np.isfinite(drift) else float("inf")
        grown = drifts[name] - before if np.isfinite(drifts[name]) else float("inf")
        result.append(
            LayerDrift(layer, name, node.op_type, drifts[name], float(np.abs(difference).max()), max(grown, 0.0))
        )
    return result


def nodes_of(proto: Any, layers: Sequence[str]) -> list[str]:  # noqa: ANN401 - an ONNX model
    """Names of the nodes of layers."""
    wanted = set(layers)
    return [node.name for node in proto.graph.node if layer_of(node) in wanted]


def layers_of(proto: Any) -> dict[str, str]:  # noqa: ANN401 - an ONNX model
    """The module of every value of a graph as the exporter wrote it; what converts graphs loses them."""
    return {output: layer_of(node) for node in proto.graph.node for output in node.output}


def layer_of(node: Any) -> str:  # noqa: ANN401 - a node of ONNX
    """The module that a node belongs to, as in the model; an empty text where it is not known."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = [scope.strip().strip("'\"") for scope in entry.value.strip("[]").split(",")]
            inner = scopes[-2] if len(scopes) > 1 else ""
            return inner.removeprefix("model.") or "model"
    return ""


def _names_of(program: Any) -> set[str]:  # noqa: ANN401
    return {node.name for node in program.graph.nodes if node.op == "call_function"}


def _chosen(traced: Traced) -> dict[str, tuple[str, Any]]:
    """Values to compare: of every stretch of nodes in one module the last, at most `_MOST`, evenly."""
    names, layers = _names_of(traced.program), traced.layers
    last: dict[str, tuple[str, Any]] = {}
    stretches: list[str] = []
    previous = None
    for node in traced.proto.graph.node:
        name = node.output[0] if node.output else ""
        layer = layers.get(name, "")
        if name not in names or not layer:
            continue
        if layer == previous:
            last.pop(stretches.pop())
        stretches.append(name)
        last[name] = (layer, node)
        previous = layer
    if len(last) <= _MOST:
        return last
    kept = {stretches[round(number * (len(stretches) - 1) / (_MOST - 1))] for number in range(_MOST)}
    return {name: entry for name, entry in last.items() if name in kept}


def _before(makers: Mapping[str, Any], node: Any, known: Mapping[str, float]) -> Iterator[str]:  # noqa: ANN401
    """The nearest compared values that a node depends on."""
    waiting, seen = list(node.input), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in known:
            yield name
        elif name in makers:
            waiting += makers[name].input


class _Recorder(fx.Interpreter):
    """Runs a graph of torch and keeps some of its values."""

    def __init__(self, module: Any, names: set[str]) -> None:  # noqa: ANN401 - a graph module
        super().__init__(module, garbage_collect_values=True)
        self.names = names
        self.kept: Values = {}

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - whatever it computes
        """Run it, and keep its value if it is one of the names."""
        value = super().run_node(n)
        if n.name in self.names and isinstance(value, Tensor) and value.is_floating_point():
            self.kept[n.name] = value.detach().numpy().copy()
        return value


@torch.no_grad()
def _values_of(program: Any, inputs: Sequence[Tensor], names: set[str]) -> Values:  # noqa: ANN401
    recorder = _Recorder(program.module(), names)
    recorder.run(*inputs)
    return recorder.kept


def _run_open(
    proto: Any,
    header: Header,
    engine: str,
    arrays: Sequence[NDArray[Any]],
    names: Sequence[str],  # noqa: ANN401
) -> Values:
    """Run a graph whose inner values are outputs too; its weights are written again, for a moment."""
    import onnx

    from pe_spatial.export.graphs import save_onnx

    opened = onnx.ModelProto()
    opened.CopyFrom(proto)
    there = {output.name for output in opened.graph.output}
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    outputs = tuple(output.name for output in opened.graph.output)  # in the order in which OpenVINO returns them
    with TemporaryDirectory(prefix="pe_spatial_") as folder:
        path = Path(folder) / "open.onnx"
        save_onnx(opened, path)
        kind = OpenVINOSession if engine == "openvino" else OnnxRuntimeSession
        session: Session = kind(path, replace(header, outputs=outputs), "cpu")
        return dict(zip(outputs, session.run(arrays), strict=True))
