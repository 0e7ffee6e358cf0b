"""Label propagation through a video, on features that the caller computes.

Letters: H, W rows and columns of pixels; h, w of tokens; C channels; M objects.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pe_spatial.common.errors import OptionError
from pe_spatial.tracking.decoding import Decoding, decode, encode, with_background
from pe_spatial.tracking.memory import Memory
from pe_spatial.tracking.propagation import Propagation, blend, match

MAX_OBJECTS = 255


class LabelTracker:
    """Takes the features of one frame after the other, and the masks that the user gives, and returns masks.

    Args:
        propagation: How labels travel between frames.
        decoding: How soft labels become masks.
        recent: How many of the last frames serve as context, besides those with given masks.

    Attributes:
        ids: Values of the objects in the masks, in the order of their first appearance.
        frame: Number of frames seen.
    """

    def __init__(
        self, propagation: Propagation | None = None, decoding: Decoding | None = None, recent: int = 7
    ) -> None:
        self.propagation = propagation or Propagation()
        self.decoding = decoding or Decoding()
        self.memory = Memory(recent)
        self.ids: list[int] = []
        self.frame = 0
        self._sizes: tuple[tuple[int, int], tuple[int, int]] | None = None

    def reset(self) -> None:
        """Forget everything: the next frame is the first of another video."""
        self.memory = Memory(self.memory.recent)
        self.ids, self.frame, self._sizes = [], 0, None

    @torch.no_grad()
    def step(
        self, features: Tensor, input_size: tuple[int, int], frame_size: tuple[int, int], mask: Tensor | None = None
    ) -> Tensor:
        """Follow all objects into the next frame.

        Args:
            features: [h, w, C] unit vectors.
            input_size: (H, W) at which the encoder saw the frame.
            frame_size: (H, W) of the frame and of the result.
            mask: Integers [H, W], 0 = no prompt. Objects in it are new, or corrected if they are known; the others
                are followed as without it.

        Returns:
            uint8 [H, W], 0 = background.

        Raises:
            OptionError: a mask of another size than the frame, without objects or with values outside 0…255, or a frame
                of another size than those before. Nothing is changed then.
        """
        self._check_frame(input_size, frame_size)
        prompted = [] if mask is None else check_mask(mask, frame_size)
        self._sizes = (input_size, frame_size)
        shares = self._propagate(features)  # [h, w, M]
        result = self._decode(shares, prompted, input_size, frame_size)
        if mask is not None:
            mask = mask.to(features.device)
            shares = self._take(mask, prompted, shares)
            result = torch.where(mask > 0, mask.to(result.dtype), result)
            self.memory.remember(features, shares, self.frame, reference=True)
            self.memory.drop_unused()
        # the frame of the first mask is its reference for good and need not be there a second time
        if self.memory.objects and any(item.latest < self.frame for item in self.memory.objects):
            self.memory.remember(features, shares, self.frame, reference=False)
        self.frame += 1
        return result.to(torch.uint8)

    def state(self) -> dict[str, Any]:
        """Return everything that is needed to go on later, as tensors and plain values."""
        return {"memory": self.memory.state(), "ids": self.ids, "frame": self.frame, "sizes": self._sizes}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Go back to a `state`, on a device."""
        self.memory.restore(state["memory"], device)
        self.ids, self.frame, self._sizes = list(state["ids"]), state["frame"], state["sizes"]

    def _propagate(self, features: Tensor) -> Tensor:
        """Shares [h, w, M] of the known objects in a frame."""
        memory = self.memory
        if not memory.objects:
            return torch.zeros(*features.shape[:2], 0, device=features.device)
        groups = memory.groups()
        valid = None
        if len(groups) > 1 or not all(groups[0][1]):
            valid = torch.tensor([sees for _, sees in groups], device=features.device)
        similarity, index = match(features, memory.keys, self.propagation, valid=valid)
        shares = memory.labels.new_empty(*features.shape[:2], len(memory.objects))
        for row, (numbers, _) in enumerate(groups):
            labels = memory.labels[..., numbers]
            shares[..., numbers] = blend(similarity[row], index[row], labels, self.propagation.temperature)
        return shares

    def _decode(
        self, shares: Tensor, prompted: Sequence[int], input_size: tuple[int, int], frame_size: tuple[int, int]
    ) -> Tensor:
        """Ids [H, W] of the objects that are not given anew."""
        kept = [number for number, value in enumerate(self.ids) if value not in prompted]
        if not kept:
            return torch.zeros(frame_size, dtype=torch.int64, device=shares.device)
        groups = [[n for n in numbers if n in kept] for numbers, _ in self.memory.groups()]
        winner = decode(with_background(shares, groups, kept), self.decoding, input_size, frame_size)
        return torch.tensor([0, *(self.ids[n] for n in kept)], device=shares.device)[winner]

    def _take(self, mask: Tensor, prompted: list[int], shares: Tensor) -> Tensor:
        """Add the objects of a mask; their shares in the mask replace the propagated ones."""
        new = [value for value in prompted if value not in self.ids]
        self.memory.add_objects(len(new), self.frame)
        self.ids += new
        numbers = [self.ids.index(value) for value in prompted]
        for number in numbers:
            self.memory.objects[number].latest = self.frame
        shares = torch.cat((shares, shares.new_zeros(*shares.shape[:2], len(new))), dim=-1)
        shares[..., numbers] = encode(mask, prompted, (shares.shape[0], shares.shape[1]))
        return shares

    def _check_frame(self, input_size: tuple[int, int], frame_size: tuple[int, int]) -> None:
        if self._sizes not in (None, (input_size, frame_size)):
            raise OptionError(
                f"frame {self.frame} is {frame_size} (H, W) but the video starts with {self._sizes[1]}; all frames of "
                "a video must have one size: resize them, or track the parts as separate videos"
            )


def check_mask(mask: Tensor, frame_size: tuple[int, int]) -> list[int]:
    """Return the ids in a mask [H, W] in ascending order.

    Raises:
        OptionError: Another size than the frame, no object, or values that are not integers in 0…255.
    """
    if mask.is_floating_point() or mask.ndim != 2:
        raise OptionError(f"a mask is {mask.dtype} {tuple(mask.shape)} but must be integers [H, W] with 0 = background")
    if tuple(mask.shape) != tuple(frame_size):
        raise OptionError(
            f"the mask is {tuple(mask.shape)} (H, W) but its frame is {tuple(frame_size)}; resize the mask with "
            "nearest neighbors, or give the mask of this video"
        )
    values = [int(value) for value in mask.unique().tolist()]
    wrong = [value for value in values if not 0 <= value <= MAX_OBJECTS]
    if wrong:
        raise OptionError(
            f"the mask has {len(values)} values up to {max(values)}; objects are numbered 1…{MAX_OBJECTS}, at most "
            f"{MAX_OBJECTS} of them: renumber it, or track them in several runs"
        )
    ids = [value for value in values if value]
    if not ids:
        raise OptionError(
            "the mask is empty, every pixel is 0: mark each object with its number 1…255, or give the mask of the "
            "frame in which the first object appears"
        )
    return ids
