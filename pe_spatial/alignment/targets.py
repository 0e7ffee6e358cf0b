"""What the teachers give for a batch, checked: on the student's grid, and finite.

Letters: B images; H, W rows and columns of pixels; h, w of tokens, N = h w; K channels of a teacher.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.alignment.summaries import Source
from pe_spatial.alignment.teachers import Teacher
from pe_spatial.common.errors import ConfigError, DivergedError


@dataclass(frozen=True)
class Target:
    """What a teacher gives for a batch.

    Attributes:
        tokens: [B, N, K].
        summary: [B, K]; None where no loss asks for it.
        overlap: [B, N], 1 where the teacher has seen what the student sees; None where it has seen all.
    """

    tokens: Tensor
    summary: Tensor | None = None
    overlap: Tensor | None = None


def ask_teacher(
    name: str,
    teacher: Teacher,
    inputs: Tensor,
    data_samples: Sequence[BaseDataElement],
    grid: tuple[int, int],
    summary: Source | None,
) -> tuple[Tensor, Tensor | None]:
    """The map [B, K, h, w] of a teacher, and what stands for the whole images [B, K] where it is asked for.

    Args:
        name: Of the teacher, for messages.
        teacher: See `Teacher.forward`.
        inputs: [B, 3, H, W], normalized with PE's mean and deviation.
        data_samples: One per image.
        grid: (h, w) of the student's tokens.
        summary: From where; None asks for none.

    Raises:
        ConfigError: A map on another grid.
        DivergedError: Features that are not finite; names the teacher and the image.
    """
    if summary is None:
        features, whole = teacher(inputs, data_samples, grid), None
    else:
        features, whole = teacher.with_summary(inputs, data_samples, grid, summary)
    if tuple(features.shape[2:]) != grid:
        cell = inputs.shape[2] // grid[0]
        raise ConfigError(
            f"teacher {name} ({type(teacher).__name__}) gives {tuple(features.shape[2:])} tokens (rows, columns) and "
            f"the student {grid}; make the maps for the student's grid, or resize the images to "
            f"{tuple(side * cell for side in features.shape[2:])} pixels"
        )
    finite = features.flatten(1).isfinite().all(dim=1)
    if not bool(finite.all()):
        first = data_samples[int(finite.logical_not().nonzero()[0])]
        raise DivergedError(
            f"teacher {name} ({type(teacher).__name__}) gives NaN or infinite features of {first.get('img_path')}; "
            "check its weights, or compute in float32 (dtype: float32)"
        )
    return features, whole


def tokens_of(features: Tensor) -> Tensor:
    """[B, K, h, w] as [B, N, K]."""
    return features.flatten(2).transpose(1, 2)
