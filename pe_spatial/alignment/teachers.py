"""What a student is aligned with: frozen models that map an image to features on the student's grid of tokens.

Letters: B images; H, W rows and columns of pixels; h, w of tokens; K channels of a teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.structures import BaseDataElement
from torch import Tensor, nn


class Teacher(nn.Module):
    """Base of all teachers. A subclass sets `channels` and writes `forward`.

    A teacher is frozen and always in evaluation mode. It is no part of a checkpoint: a run that resumes builds it from
    its config again, so it must come out the same. `SpatialAlignment` calls it without gradient.

    Attributes:
        channels: K, or None where it differs between images. The semantic loss needs a number.
    """

    channels: int | None = None

    def forward(self, inputs: Tensor, data_samples: Sequence[BaseDataElement], grid: tuple[int, int]) -> Tensor:
        """Look at the very pixels that the student sees, before anything is hidden from it.

        Args:
            inputs: [B, 3, H, W], normalised with PE's mean and deviation (0.5).
            data_samples: One per image; see `pe_spatial.data.sample`.
            grid: (h, w) of the student's tokens.

        Returns:
            [B, K, h, w], floating point. The loss takes cosines between its vectors, so their length is free, and
            channels of zeros change nothing: images with fewer channels are filled up with them.
        """
        raise NotImplementedError

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode, without gradients."""
        del mode
        self.requires_grad_(False)
        return super().train(False)


class MaskTeacher(Teacher):
    """Base of teachers that say which tokens belong together: a token's vector holds its logit in each of K masks.

    SAM with a prompt in every cell of a 32x32 grid gives K = 1024; the drawn instances of a scene give as many as there
    are. A teacher whose maps were computed before reads them from `data_samples[i].mask_logits.data`, [K, h, w]: the
    pipeline loads them as the sample's `mask_logits` (a `TokenMap`), so that they are flipped and cropped with the
    image.
    """
