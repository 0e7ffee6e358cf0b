"""The two losses of spatial alignment (Bolya et al., "Perception Encoder", 2025, section 5 and appendix B.3).

Letters: B images, N tokens, C channels of the student, K of the teacher.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# entries of pairwise matrices that exist at a time: 16 MiB each in float32, four images of 1024 tokens
CHUNK = 1 << 22


def semantic_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the negative mean cosine between tokens of the student and of the teacher.

    The arXiv version prints it without the minus; the authors have confirmed the sign (issue 43 of their repository).

    Args:
        student: [B, N, C].
        teacher: [B, N, C].

    Raises:
        ValueError: The shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student tokens {list(student.shape)} and teacher tokens {list(teacher.shape)} [B, N, C] differ; both "
            "need one grid, and a projection where the widths differ"
        )
    return -F.cosine_similarity(_full(student), _full(teacher), dim=-1).mean()


def locality_loss(student: Tensor, teacher: Tensor, temperature: float | None = 20.0, *, chunk: int = CHUNK) -> Tensor:
    """Return the mean squared difference between two N x N matrices of cosines between tokens.

    The student's are compared with exp(temperature * (cosine - 1)) of the teacher's: at 20, a cosine of 0.9 counts as
    0.135, so that almost only tokens of one segment are pulled together.

    Neither matrix is ever whole: memory is that of the tokens and of four matrices of `chunk` entries, however large
    B and N are, in the forward pass as in the backward pass, which computes nothing again. No gradient reaches the
    teacher.

    Args:
        student: [B, N, C].
        teacher: [B, N, K].
        temperature: None compares with the teacher's cosines as they are.
        chunk: Entries of a matrix that exist at a time; at least one row does.

    Raises:
        ValueError: Another number of images or tokens.
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"student tokens {list(student.shape)} and teacher tokens {list(teacher.shape)} [B, N, channels] differ in "
            "B or N; both need one grid of tokens"
        )
    with torch.no_grad():
        target = F.normalize(_full(teacher), dim=-1)
    with torch.autocast(student.device.type, enabled=False):
        return _PairwiseLoss.apply(F.normalize(_full(student), dim=-1), target, temperature, chunk)


def target_similarity(teacher: Tensor, temperature: float | None) -> Tensor:
    """Turn cosines of a teacher, of any shape, into the targets of the student's; see `locality_loss`."""
    return teacher if temperature is None else ((teacher - 1) * temperature).exp()


class _PairwiseLoss(torch.autograd.Function):
    """The loss of unit vectors, which computes its gradient on the way.

    With D = S S^T - T, symmetric, the loss sum(D^2) / (B N^2) has the gradient 4 D S / (B N^2): rows of D that are at
    hand for the loss give those rows of the gradient, and need not be stored or computed again.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, target: Tensor, temperature: float | None, chunk: int) -> Tensor:
        scale = 1 / max(student.shape[0] * student.shape[1] ** 2, 1)
        gradient = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        total = student.new_zeros(())
        with torch.autocast(student.device.type, enabled=False):
            for images, rows in _chunks(student.shape[0], student.shape[1], chunk):
                s, t = student[images], target[images]  # [b, N, C], [b, N, K]
                wanted = target_similarity(t[:, rows] @ t.mT, temperature)  # [b, r, N]
                difference = torch.baddbmm(wanted, s[:, rows], s.mT, beta=-1)  # [b, r, N]
                total += difference.square().sum()
                if gradient is not None:
                    gradient[images, rows] = difference @ s
        ctx.scale = scale
        ctx.save_for_backward(gradient)
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (4 * ctx.scale * outer), None, None, None


def _chunks(images: int, tokens: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Cut B x N rows of N entries each into blocks: whole images where several fit, rows of one where not."""
    per_image = tokens * tokens
    if per_image <= limit:
        step = limit // max(per_image, 1)
        yield from ((slice(start, start + step), slice(None)) for start in range(0, images, step))
        return
    step = max(limit // tokens, 1)
    for image in range(images):
        yield from ((slice(image, image + 1), slice(start, start + step)) for start in range(0, tokens, step))


def _full(tokens: Tensor) -> Tensor:
    """At least float32, whatever precision they were computed in."""
    return tokens if tokens.dtype == torch.float64 else tokens.float()
