"""Rotary positions on a 2-D grid: one function makes the table, one applies it.

A head of D channels holds D/2 pairs of neighboring channels. A pair is rotated by (position x frequency); the first
D/4 pairs follow the column (x), the others the row (y), with the frequencies 10000^(-4i/D), i = 0..D/4-1.

Letters: N tokens, B images, H heads, D channels of a head.
"""

from functools import lru_cache

import torch
from torch import Tensor

_BASE = 10000.0


def rotary_table(
    height: int,
    width: int,
    head_dim: int,
    device: torch.device,
    *,
    reference: int | None = None,
    cls_token: bool = False,
) -> Tensor:
    """Return the (cos, sin) of every token and channel pair of a grid; each grid is computed once per process.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        head_dim: Channels of a head, a multiple of 4.
        device: Where the table is needed.
        reference: None counts positions in cells, at any size (official feature extraction). A number rescales both
            axes to a grid of that side: position = index / cells * reference (official detection backbones).
        cls_token: Whether a class token precedes the grid. It has the angle 0, the patches then start at position 1.

    Returns:
        [N, D/2, 2] float32. It may be shared with other callers: do not write to it.
    """
    if torch.compiler.is_compiling():
        # a lookup by size would bind the graph to that size; inside a graph the table costs next to nothing
        return _compute_table(height, width, head_dim, device, reference, cls_token)
    return _cached_table(height, width, head_dim, device, reference, cls_token)


def apply_rotary(x: Tensor, table: Tensor) -> Tensor:
    """Rotate queries or keys, in float32 whatever their type is.

    Args:
        x: [B, H, N, D], any strides with a contiguous last dimension.
        table: [N, D/2, 2] from `rotary_table`.

    Returns:
        [B, H, N, D] of the type of `x`.
    """
    pairs = x.float().unflatten(-1, (-1, 2))  # [B, H, N, D/2, 2]
    if torch.compiler.is_compiling():  # real arithmetic fuses with its neighbors, complex arithmetic does not
        (a, b), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
        rotated = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    else:  # one pass over the memory instead of six
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table))
    return rotated.flatten(-2).to(x.dtype)


def writes_into(x: Tensor) -> bool:
    """Whether `apply_rotary_densely` takes x: float32, not recorded by autograd nor traced."""
    return x.dtype == torch.float32 and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def apply_rotary_densely(x: Tensor, table: Tensor) -> Tensor:
    """The same for float32 without gradients: one pass reads any strides and writes dense rows, without a copy before.

    Args:
        x: float32 [..., H, N, D], any strides with a contiguous last dimension.
        table: [N, D/2, 2] from `rotary_table`.

    Returns:
        [..., H, N, D], contiguous.
    """
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # [..., H, N, D/2]
    rotated = torch.empty(pairs.shape, dtype=pairs.dtype, device=x.device)
    torch.mul(pairs, torch.view_as_complex(table), out=rotated)
    return torch.view_as_real(rotated).flatten(-2)


@lru_cache(maxsize=32)
def _cached_table(
    height: int, width: int, head_dim: int, device: torch.device, reference: int | None, cls_token: bool
) -> Tensor:
    # A process-wide cache keeps the tables out of state dicts, works for models built on the meta device, follows
    # `.to(device)` and serves models and threads of different sizes at once. The arithmetic is done on the CPU so that
    # all devices get the same bits, and outside inference mode so that training may use a table that inference made.
    with torch.inference_mode(False):
        return _compute_table(height, width, head_dim, torch.device("cpu"), reference, cls_token).to(device)


def _compute_table(
    height: int, width: int, head_dim: int, device: torch.device, reference: int | None, cls_token: bool
) -> Tensor:
    axis_dim = head_dim // 2
    exponents = torch.arange(0, axis_dim, 2, device=device, dtype=torch.float32) / axis_dim
    frequencies = _BASE**-exponents  # [D/4]

    def angles(cells: int) -> Tensor:
        positions = torch.arange(cells, device=device, dtype=torch.float32)
        if reference is not None:
            positions = positions / cells * reference
        return (positions + int(cls_token))[:, None] * frequencies  # [cells, D/4]

    columns = angles(width)[None, :].expand(height, -1, -1)
    rows = angles(height)[:, None].expand(-1, width, -1)
    grid = torch.cat((columns, rows), dim=-1).flatten(0, 1)  # [height * width, D/2]
    if cls_token:
        grid = torch.cat((grid.new_zeros(1, axis_dim), grid))
    return torch.stack((grid.cos(), grid.sin()), dim=-1)  # [N, D/2, 2]
