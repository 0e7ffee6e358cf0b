"""What of a model is exported: a graph of tensors alone, and the engine that takes its place.

A model that can be exported keeps `Exportable`. Everything before the graph (the pipeline, the preprocessor) and
everything after it (windows, suppression, masks at the size of the image) stays in the model, so an engine gives what
the model gives, to the digits of the engine.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

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
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    multiple: int
    free_batch: bool = True
    free_size: bool = True


@runtime_checkable
class Exportable(Protocol):
    """A model whose network can be exported, and replaced by an engine."""

    def graph(self, kind: str = "") -> NetworkGraph:
        """The graph of its network.

        Args:
            kind: Which of several, e.g. "raw" of a detector; an empty text means the one that `use_engine` takes.

        Raises:
            OptionError: There is no such graph, or the settings of the model forbid one.
        """

    def use_engine(self, run: Engine) -> None:
        """Take the network from an engine from now on."""
