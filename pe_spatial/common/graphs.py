"""What of a model is exported: a graph of tensors alone, and the engine that takes its place.

A model that can be exported keeps `Exportable`. Everything before the graph (the pipeline, the preprocessor) and
everything after it (windows, suppression, masks at the size of the image) stays in the model, so an engine gives what
the model gives, to the digits of the engine.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from pe_spatial.common.errors import OptionError

Engine = Callable[..., tuple[Tensor, ...]]
"""Runs an exported graph: its inputs in the order of `NetworkGraph.inputs`, its outputs in that of `outputs`."""


class NetworkGraph(NamedTuple):
    """A graph of fixed outputs.

    Args:
        module: Its `forward` takes the tensors of `inputs` and returns a tuple, those of `outputs`.
        inputs: Names; the first are normalized and padded images [B, 3, H, W].
        outputs: Names.
        multiple: Sides of images are multiples of it.
        free_batch: Whether B may be left open.
        free_size: Whether H and W may be left open.
        example: Sides in multiples of an image by which a graph of open sizes is traced. They differ, and no map has a
            side of one cell, so that nothing is taken for a constant.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    multiple: int
    free_batch: bool = True
    free_size: bool = True
    example: tuple[int, int] = (5, 7)


class Network(nn.Module):
    """A model as a module that computes its graph.

    Args:
        model: Its parameters are those of the graph.
        compute: From the inputs to the outputs; a method of the model.
    """

    def __init__(self, model: nn.Module, compute: Callable[..., Sequence[Tensor]]) -> None:
        super().__init__()
        self.model = model
        self.compute = compute

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute."""
        return tuple(self.compute(*inputs))


def only_graph(kind: str) -> None:
    """Refuse a kind, for models that have one graph.

    Raises:
        OptionError: One is asked for.
    """
    if kind:
        raise OptionError(f"graph {kind!r}: this model has one graph, so leave the kind out")


@runtime_checkable
class Exportable(Protocol):
    """A model whose network can be exported, and replaced by an engine."""

    def graph(self, kind: str = "") -> NetworkGraph:
        """The graph of its network, also after `use_engine`: it never runs the engine itself.

        Args:
            kind: Which of several, e.g. "raw" of a detector; an empty text means the one that `use_engine` takes.

        Raises:
            OptionError: There is no such graph, or the settings of the model forbid one.
        """

    def use_engine(self, run: Engine) -> None:
        """Take the network from an engine from now on."""
