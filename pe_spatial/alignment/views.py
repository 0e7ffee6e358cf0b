"""What of a batch the student and its teachers see in a training step: its size, and windows that lie apart.

Letters: B images; H, W rows and columns of pixels; h, w of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.common.errors import ConfigError, OptionError, require_positive

Offsets = Sequence[tuple[int, int]]  # (row, column) of the upper left token of a window, for every image


@dataclass(frozen=True)
class ViewOptions:
    """Settings of what is seen.

    Args:
        reduction: The student sees images reduced so many times (means of areas), the teachers see them whole: with
            images of 1024 pixels and a reduction of 2 the student is trained at 512 pixels. A teacher with `scale: 2`
            then sees twice the pixels.
        sizes: (least, greatest) side in pixels of what the student sees in training; each step takes one, a multiple
            of `step`. None takes the images as they come. The images must be square and as large as the greatest.
        step: Of the sizes, in pixels; None takes the patch size.
        shift: Windows of the student and of each teacher lie up to so many tokens apart; see `RandomShifts`.
        tokens: Of the student in a batch, at most: at a large size it learns from so many images of the batch as fit.
            So the batch of the loader is that of the least size. None: from all images at every size.

    Raises:
        OptionError: A value outside its range.
    """

    reduction: int = 1
    sizes: Sequence[int] | None = None
    step: int | None = None
    shift: int = 0
    tokens: int | None = None

    def __post_init__(self) -> None:
        require_positive(reduction=self.reduction)
        if self.shift < 0:
            raise OptionError(f"shift {self.shift} is below 0; 0 leaves the windows where they are")
        if self.sizes is not None and (len(self.sizes) != 2 or not 0 < self.sizes[0] <= self.sizes[1]):
            raise OptionError(f"sizes {list(self.sizes)} is not (least, greatest) in pixels")
        if self.step is not None and self.sizes is None:
            raise OptionError(f"step {self.step} belongs to sizes, which are not given")
        if self.tokens is not None and self.sizes is None:
            raise OptionError(f"tokens {self.tokens} belongs to sizes, which are not given")

    def sides(self, patch_size: int) -> range:
        """All sides in pixels that a step may take.

        Raises:
            OptionError: Not every side is a multiple of the patch size.
        """
        assert self.sizes is not None
        step = self.step or patch_size
        least, greatest = self.sizes
        if least % patch_size or step % patch_size or (greatest - least) % step:
            raise OptionError(
                f"sizes {least} to {greatest} in steps of {step} pixels are not all multiples of the patch size "
                f"{patch_size}; choose multiples"
            )
        if self.tokens is not None and self.tokens < (greatest // patch_size) ** 2:
            raise OptionError(
                f"tokens {self.tokens} are fewer than the {(greatest // patch_size) ** 2} of one image of {greatest} "
                "pixels; allow more tokens, or smaller sizes"
            )
        return range(least, greatest + 1, step)

    def images(self, side: int, patch_size: int) -> int | None:
        """How many images of a side fit into a batch; None without a limit."""
        return None if self.tokens is None else self.tokens // (side // patch_size) ** 2


@TRANSFORMS.register_module()
class RandomShifts:
    """Draw where the windows of the student and of its teachers lie: `shifts`, one (row, column) for each.

    The draw belongs to the sample, like all augmentation: it depends neither on the number of processes nor on the
    batch.

    Args:
        most: Largest number of a row or a column, in tokens of the student; see `ViewOptions.shift`.
        windows: The student and the teachers that are distilled from.
    """

    def __init__(self, most: int, windows: int = 2) -> None:
        require_positive(most=most, windows=windows)
        self.most = most
        self.windows = windows

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Draw for one sample."""
        drawn = torch.randint(self.most + 1, (self.windows, 2)).tolist()
        return {**sample, "shifts": tuple((row, column) for row, column in drawn)}


def side_of_step(sides: range, step: int) -> int:
    """One of the sides, the same for every process and after every resume."""
    generator = torch.Generator().manual_seed(step)
    return sides[int(torch.randint(len(sides), (), generator=generator))]


def resized(images: Tensor, side: int) -> Tensor:
    """Square images [B, 3, H, H] with another side.

    Raises:
        ConfigError: They are not square, or smaller.
    """
    H, W = images.shape[-2:]
    if H != W or side > H:
        raise ConfigError(
            f"images of {H} x {W} are not square or smaller than {side}, the side that views.sizes asks for; resize "
            "the images of the pipeline to the greatest of the sizes"
        )
    if side == H:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)


def reduced(images: Tensor, factor: int) -> Tensor:
    """Images [B, 3, H, W] with sides shorter by a whole factor, by means of areas.

    Raises:
        ConfigError: H or W is not a multiple of it.
    """
    if factor == 1:
        return images
    H, W = images.shape[-2:]
    if H % factor or W % factor:
        raise ConfigError(f"images of {H} x {W} cannot be reduced {factor} times; resize them to multiples")
    return F.avg_pool2d(images, factor)


def cut_windows(x: Tensor, offsets: Offsets, cell: int, size: tuple[int, int]) -> Tensor:
    """Cut one window [C, h cell, w cell] from every image.

    Args:
        x: [B, C, H, W].
        offsets: Of the upper left corners, in cells.
        cell: Side of a cell in entries of x.
        size: (h, w) in cells.
    """
    rows, columns = (cells * cell for cells in size)
    cut = [
        each[:, row * cell : row * cell + rows, column * cell : column * cell + columns]
        for each, (row, column) in zip(x, offsets, strict=True)
    ]
    return torch.stack(cut)


def brought_over(features: Tensor, seen_from: Offsets, wanted_from: Offsets) -> tuple[Tensor, Tensor]:
    """A teacher's maps as the student's window lies, and where both windows overlap.

    Args:
        features: [B, K, h, w].
        seen_from: Offsets of the teacher's windows.
        wanted_from: Offsets of the student's windows.

    Returns:
        [B, K, h, w], and [B, h, w]: 1 where the teacher has seen the place, else 0.
    """
    h, w = features.shape[-2:]
    moved, overlap = torch.empty_like(features), features.new_zeros(len(features), h, w)
    for number, (theirs, ours) in enumerate(zip(seen_from, wanted_from, strict=True)):
        down, right = ours[0] - theirs[0], ours[1] - theirs[1]
        moved[number] = torch.roll(features[number], (-down, -right), (-2, -1))
        overlap[number, max(-down, 0) : h - max(down, 0), max(-right, 0) : w - max(right, 0)] = 1
    return moved, overlap
