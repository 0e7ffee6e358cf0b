"""One step of label propagation as a module of tensors alone, for `torch.compile` and `torch.export`.

Letters: H, W rows and columns of pixels; h, w of tokens; S context frames; C channels; M objects.
"""

from torch import Tensor, nn

from pe_spatial.tracking.decoding import Decoding, decode, with_background
from pe_spatial.tracking.propagation import Propagation, propagate


class TrackingStep(nn.Module):
    """Follows objects into the next frame as `LabelTracker.step` does, with the memory as an input.

    It holds for objects that use the same context frames: all that are given with one frame. The caller keeps the
    memory: it stores the features and the shares of a frame as the next recent ones. A graph of it has one grid and one
    number of context frames and objects, for the loop over the tiles is unrolled.

    Args:
        propagation: How labels travel; DINO's defaults where None.
        decoding: How soft labels become masks; likewise.
        input_size: (H, W) at which the encoder sees frames.
        frame_size: (H, W) of frames and results.
    """

    def __init__(
        self,
        propagation: Propagation | None,
        decoding: Decoding | None,
        input_size: tuple[int, int],
        frame_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.propagation, self.decoding = propagation or Propagation(), decoding or Decoding()
        self.input_size, self.frame_size = input_size, frame_size

    def forward(self, features: Tensor, keys: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Follow.

        Args:
            features: [h, w, C] unit vectors of the new frame.
            keys: [h, w, S, C] unit vectors of the context frames.
            labels: [h, w, S, M], the shares of the objects there.

        Returns:
            The shares [h, w, M] in the new frame; and int64 [H, W], 0 for background and 1 … M for the objects.
        """
        shares = propagate(features, keys, labels, self.propagation)
        channels = with_background(shares, [list(range(shares.shape[-1]))])
        return shares, decode(channels, self.decoding, self.input_size, self.frame_size)
