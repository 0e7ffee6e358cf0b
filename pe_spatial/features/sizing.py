"""The size at which an encoder sees a picture: by one side or both, in whole patches."""

from dataclasses import dataclass

from torch import Tensor

from pe_spatial.common.errors import require_choice, require_positive
from pe_spatial.common.pictures import resize_picture
from pe_spatial.common.sizes import patched_size

RESIZES = {
    "shorter": "the shorter side becomes image_size, the longer one at most 8 times that; the aspect ratio is kept",
    "longer": "the longer side becomes image_size; the aspect ratio is kept",
    "square": "both sides become image_size, whatever the aspect ratio",
}
INTERPOLATION = "bilinear, antialiased (Pillow)"


@dataclass(frozen=True)
class Sizing:
    """How pictures are resized before an encoder sees them.

    Both sides are then rounded to whole patches, at least one, which changes the aspect ratio by half a patch at most.

    Args:
        image_size: In pixels.
        resize: One of `RESIZES`.
        unit: Side of a patch in pixels; both sides become multiples of it.

    Raises:
        OptionError: Another word, or a number below 1.
    """

    image_size: int
    resize: str = "shorter"
    unit: int = 1

    def __post_init__(self) -> None:
        require_choice("resize", self.resize, RESIZES)
        require_positive(image_size=self.image_size, unit=self.unit)

    def target(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size (H, W) in pixels that a picture of (H, W) is resized to."""
        return patched_size(size, self.image_size, self.resize, self.unit)

    def __call__(self, image: Tensor) -> Tensor:
        """Resize an image uint8 [3, H, W]."""
        target = self.target((image.shape[-2], image.shape[-1]))
        if tuple(image.shape[-2:]) == target:
            return image.as_subclass(Tensor)
        return resize_picture(image, target)
