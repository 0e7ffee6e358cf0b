"""LoRA: a frozen encoder learns through small additions to the matrices of its blocks (arXiv:2106.09685).

An adapter is a module beside the matrix W that it adds to: x W^T becomes x W^T + alpha / rank * (x A^T) B^T. A (`down`)
is drawn and B (`up`) begins at zero, so that training begins with the encoder as it is. The encoder's own parameters
keep their official names; the adapters lie beside them: `transformer.resblocks.0.attn.lora_in_proj.down`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pe_spatial.common.errors import OptionError, require_positive, suggest
from pe_spatial.common.linear import linear

# the matrices of a block, by the names of the official checkpoints -> the part of the block that has them
TARGETS = {"in_proj": "attn", "out_proj": "attn", "c_fc": "mlp", "c_proj": "mlp"}
_PREFIX = "lora_"  # of the name of an adapter, before that of its matrix


@dataclass(frozen=True)
class LoraOptions:
    """What `lora` of a `PEBackbone` may say.

    Args:
        rank: Rows of A and columns of B; no more than the smaller side of any target.
        alpha: The additions are scaled by alpha / rank.
        targets: Some of `in_proj` (queries, keys and values, which are one matrix [3C, C] and share one A), `out_proj`,
            `c_fc` and `c_proj` (the two matrices of the MLP).
        dropout: Probability that an input of an adapter is zeroed in training.

    Raises:
        OptionError: An option outside its range, or an unknown target.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] = tuple(TARGETS)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if type(self.rank) is not int:
            raise OptionError(f"rank {self.rank!r} is not a whole number; 4 to 64 are usual")
        require_positive(rank=self.rank)
        if not 0 < self.alpha < math.inf:
            raise OptionError(f"alpha {self.alpha} must be above 0; 2 * rank is usual")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout {self.dropout} is not a probability below 1; use 0 to drop nothing")
        if isinstance(self.targets, str) or not self.targets:
            raise OptionError(f"targets {self.targets!r} is not a list of matrices; give some of {', '.join(TARGETS)}")
        for name in self.targets:
            if name not in TARGETS:
                raise OptionError(f"target {name!r} is not a matrix of a block; {suggest(str(name), TARGETS)}")


class LowRankAdapter(nn.Module):
    """What is added to the output of one matrix.

    Args:
        matrix: [out, in], of the device and the type that the adapter gets.
        options: Rank, scale and dropout.
    """

    def __init__(self, matrix: Tensor, options: LoraOptions) -> None:
        super().__init__()
        rows, columns = matrix.shape
        self.down = nn.Parameter(matrix.new_empty(options.rank, columns))
        self.up = nn.Parameter(matrix.new_zeros(rows, options.rank))
        self.dropout = nn.Dropout(options.dropout)
        self.scale = options.alpha / options.rank
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as the authors' code and peft do

    def forward(self, x: Tensor) -> Tensor:
        """Map the input of the matrix [..., in] to the addition to its output [..., out]."""
        return linear(linear(self.dropout(x), self.down) * self.scale, self.up)

    def delta(self) -> Tensor:
        """The addition to the matrix, float32 [out, in]."""
        return self.scale * (self.up.float() @ self.down.float())


def add_adapters(blocks: Iterable[nn.Module], options: LoraOptions) -> None:
    """Give the matrices of blocks their adapters.

    The state of the random numbers is left as it was: what is built afterwards, such as a head, begins as it would
    on an encoder without adapters.

    Raises:
        OptionError: The rank exceeds the smaller side of a matrix.
    """
    with torch.random.fork_rng(devices=[]):
        for block in blocks:
            for target in options.targets:
                matrix = _matrix(block, target)
                if options.rank > min(matrix.shape):
                    raise OptionError(
                        f"lora.rank {options.rank} exceeds the smaller side of {target}, {list(matrix.shape)}; give at "
                        f"most {min(matrix.shape)}"
                    )
                setattr(getattr(block, TARGETS[target]), _PREFIX + target, LowRankAdapter(matrix, options))


@torch.no_grad()
def merge_adapters(blocks: Iterable[nn.Module]) -> None:
    """Add what the adapters have learned to their matrices and remove them: the blocks are plain ones again."""
    for block, target, adapter in adapters(blocks):
        matrix = _matrix(block, target)
        matrix.copy_(matrix.float() + adapter.delta())
        setattr(getattr(block, TARGETS[target]), _PREFIX + target, None)


def adapters(blocks: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str, LowRankAdapter]]:
    """(block, name of the matrix, adapter) of every adapter of blocks."""
    for block in blocks:
        for target, part in TARGETS.items():
            adapter = getattr(getattr(block, part), _PREFIX + target)
            if adapter is not None:
                yield block, target, adapter


def is_adapter(key: str) -> bool:
    """Whether a tensor of a state dict belongs to an adapter, by its name."""
    return f".{_PREFIX}" in key


def _matrix(block: nn.Module, target: str) -> nn.Parameter:
    part = getattr(block, TARGETS[target])
    return part.in_proj_weight if target == "in_proj" else getattr(part, target).weight
