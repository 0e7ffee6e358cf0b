"""From masks to the shares of objects in tokens, and from those back to masks.

Letters: H, W rows and columns of pixels; h, w of tokens; M objects.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_spatial.common.errors import require_choice


@dataclass(frozen=True)
class Decoding:
    """How soft labels become a mask; the defaults are those of DINO's script.

    Args:
        upsampling: Of the soft labels: `bilinear` or `nearest`.
        at_frame_size: True upsamples to the size of the frame; False to that of the encoder's input, decides there, and
            takes the nearest pixel for the frame.
        stretch: Scale the soft label of every object, and that of the background, to the range 0 to 1 before the
            largest wins.

    Raises:
        OptionError: An unknown upsampling.
    """

    upsampling: str = "bilinear"
    at_frame_size: bool = False
    stretch: bool = True

    def __post_init__(self) -> None:
        require_choice("upsampling", self.upsampling, ("bilinear", "nearest"))


def encode(mask: Tensor, ids: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """Say which object each token belongs to: that of the pixel at its center.

    An object that holds no center keeps the token of which it covers most, so that none is lost.

    Args:
        mask: Integers [H, W].
        ids: The M values in it that stand for objects.
        grid: h and w.

    Returns:
        [h, w, M] float32, 0 or 1, with at most one 1 a token.
    """
    values = torch.tensor(ids, device=mask.device)
    tokens = _nearest(mask, grid)  # [h, w]
    shares = (tokens[..., None] == values).float()  # [h, w, M]
    for number in (shares.flatten(0, 1).amax(dim=0) == 0).nonzero().flatten().tolist():
        covered = F.adaptive_avg_pool2d((mask == values[number]).float()[None], grid)[0]  # [h, w]
        place = covered.argmax()
        shares.view(-1, len(ids))[place] = 0
        shares.view(-1, len(ids))[place, number] = 1
    return shares


def background(shares: Tensor, groups: Iterable[Sequence[int]]) -> Tensor:
    """Return the share [h, w] of no object.

    Objects of a group use the same frames, so their background share is exact; groups count as independent.

    Args:
        shares: [h, w, M].
        groups: Numbers of objects; see `pe_spatial.tracking.memory.Memory.groups`.
    """
    rest = shares.new_ones(shares.shape[:2])
    for numbers in groups:
        rest = rest * (1 - shares[..., numbers].sum(dim=-1)).clamp(min=0)
    return rest


def with_background(shares: Tensor, groups: Iterable[Sequence[int]], kept: Sequence[int] | None = None) -> Tensor:
    """The channels [h, w, 1 + M] that `decode` takes: the background, then the objects `kept`, all where None."""
    chosen = shares if kept is None else shares[..., kept]
    return torch.cat((background(shares, groups)[..., None], chosen), dim=-1)


def decode(channels: Tensor, decoding: Decoding, input_size: tuple[int, int], frame_size: tuple[int, int]) -> Tensor:
    """Give every pixel to the channel with the largest soft label, the earlier one where two are equal.

    One channel at a time is upsampled, so that 255 objects on a large frame need no more memory than one.

    Args:
        channels: [h, w, 1 + M], the background first.
        decoding: See `Decoding`.
        input_size: (H, W) of the encoder's input.
        frame_size: (H, W) of the result.

    Returns:
        int64 [H, W], rows of `channels`.
    """
    size = frame_size if decoding.at_frame_size else input_size
    largest = channels.new_full(size, -torch.inf)
    winner = torch.zeros(size, dtype=torch.int64, device=channels.device)
    for number, channel in enumerate(channels.unbind(dim=-1)):
        scores = _upsample(channel, size, decoding.upsampling)
        if decoding.stretch:
            low, high = scores.amin((0, 1)), scores.amax((0, 1))  # with axes, which ONNX needs
            # all 0 where a channel is even; a branch would wait for the device, and no graph could hold it
            scores = (scores - low) / torch.where(high > low, high - low, torch.inf)
        better = scores > largest
        largest = torch.where(better, scores, largest)
        winner.masked_fill_(better, number)
    return _nearest(winner, frame_size)


def _upsample(channel: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if mode == "nearest":
        return _nearest(channel, size)
    return F.interpolate(channel[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def _nearest(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample [H, W] at the centers of a grid of another size: the pixel that holds each."""
    rows, columns = (
        ((torch.arange(new, device=values.device) + 0.5) * old / new).long().clamp(max=old - 1)
        for new, old in zip(size, values.shape, strict=True)
    )
    return values[rows][:, columns]
