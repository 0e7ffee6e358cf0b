"""The size at which an encoder sees a frame."""

from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.errors import OptionError, PictureError, require_choice

_THINNEST = 32  # the encoder's work grows with the square of the length


@dataclass(frozen=True)
class Resizing:
    """How frames are resized; give `short_side` or `tokens`.

    Args:
        short_side: Of the resized frame in pixels; the long side follows the aspect ratio.
        tokens: Side of a square grid of tokens; frames are squeezed to it.
        rounding: Sides that do not fit go `down` or `up` to the next size that does.
        long_multiple: With `down`, the long side first goes down to a multiple of this, though not below the short
            side (DINO's script: 64); then both go down to multiples of the patch.
        interpolation: `bilinear` or `bicubic`.
        antialias: Average over the pixels that a smaller frame merges.

    Raises:
        OptionError: Both or neither of the sizes, or a value outside its range.
    """

    short_side: int | None = None
    tokens: int | None = None
    rounding: str = "down"
    long_multiple: int = 1
    interpolation: str = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        if (self.short_side is None) == (self.tokens is None):
            raise OptionError(
                f"short_side {self.short_side} and tokens {self.tokens}: give exactly one, short_side in pixels or "
                "tokens for a square grid"
            )
        if min(size for size in (self.short_side, self.tokens, self.long_multiple) if size is not None) < 1:
            raise OptionError(f"{self}: sizes must be positive")
        require_choice("rounding", self.rounding, ("down", "up"))
        InterpolationMode(self.interpolation)

    def size(self, frame: tuple[int, int], patch: int) -> tuple[int, int]:
        """Return (H, W) in pixels for a frame of (H, W), both multiples of the patch size.

        Raises:
            OptionError: The short side is smaller than a patch.
            PictureError: The frame is so thin that its long side would be beyond all measure.
        """
        if self.tokens is not None:
            return self.tokens * patch, self.tokens * patch
        assert self.short_side is not None
        if self.short_side < patch:
            raise OptionError(f"short_side {self.short_side} is smaller than a patch of {patch} pixels; enlarge it")
        short = self._fit(self.short_side, patch)
        ratio = Fraction(max(frame), min(frame))
        if ratio > _THINNEST:
            raise PictureError(
                f"a frame of {frame[0]} x {frame[1]} pixels (H x W) is too thin: at most {_THINNEST} times as long as "
                "wide; crop it"
            )
        if self.rounding == "up":  # the aspect ratio is that of the rounded short side, as in DINOv3's notebook
            long = self._fit(short * ratio, patch)
        else:
            exact = self.short_side * ratio
            multiple = int(exact // self.long_multiple) * self.long_multiple
            long = self._fit(max(multiple, self.short_side), patch)
        return (short, long) if frame[0] <= frame[1] else (long, short)

    def __call__(self, frame: Tensor, patch: int) -> Tensor:
        """Resize a frame uint8 [3, H, W] to `size`."""
        height, width = frame.shape[-2:]
        mode = InterpolationMode(self.interpolation)
        return F.resize(frame, list(self.size((height, width), patch)), interpolation=mode, antialias=self.antialias)

    def _fit(self, side: int | Fraction, patch: int) -> int:
        steps = side // patch if self.rounding == "down" else -(-side // patch)
        return int(steps) * patch
