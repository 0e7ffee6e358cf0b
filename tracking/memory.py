"""What a tracker remembers of the frames that it has seen: a bounded number of feature maps and their soft labels.

Letters: h, w rows and columns of tokens; S slots, one frame each; C channels; M objects.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pe_spatial.common.errors import OptionError


@dataclass(frozen=True)
class Slot:
    """The frame in a slot. A reference stays while an object needs it, a recent one makes room for newer ones."""

    frame: int
    reference: bool


@dataclass
class TrackedObject:
    """An object by the frames on which the user said where it is: the first one and the latest one."""

    first: int
    latest: int

    @property
    def references(self) -> set[int]:
        """Frames that hold the prompts of the object."""
        return {self.first, self.latest}


class Memory:
    """The context of label propagation: the frames with given masks, and the last n frames.

    The references of an object are the frame on which it was first given and the frame on which it was last given (a
    correction). It is propagated from these and from the recent frames that are younger. So an object that enters late
    or is corrected is tracked as if the video began there, and independently of all other objects. At most two
    references are kept per object, however often it is corrected: the number of slots does not grow with the length of
    the video.

    Args:
        recent: How many of the last frames are kept.

    Attributes:
        keys: [h, w, S, C] unit vectors.
        labels: [h, w, S, M] float32, the share of each object in a token; what is missing to 1 is background.
        slots: What the S slots hold.
        objects: The M objects.

    Raises:
        OptionError: `recent` is negative.
    """

    def __init__(self, recent: int) -> None:
        if recent < 0:
            raise OptionError(f"recent {recent} is negative; it is the number of last frames to keep; 0 keeps none")
        self.recent = recent
        self.keys = torch.empty(0)
        self.labels = torch.empty(0)
        self.slots: list[Slot] = []
        self.objects: list[TrackedObject] = []

    def add_objects(self, count: int, frame: int) -> None:
        """Make room for more objects that are given on a frame; their labels are 0 in older frames."""
        self.objects += [TrackedObject(frame, frame) for _ in range(count)]
        if self.slots:
            missing = self.labels.new_zeros(*self.labels.shape[:3], count)
            self.labels = torch.cat((self.labels, missing), dim=3)

    def remember(self, features: Tensor, labels: Tensor, frame: int, *, reference: bool) -> None:
        """Store a frame; a recent one takes the place of the oldest if `recent` of them are there.

        Args:
            features: [h, w, C] unit vectors.
            labels: [h, w, M].
            frame: Number of the frame.
            reference: Whether its labels were given.
        """
        if not reference and self.recent == 0:
            return
        slot = Slot(frame, reference)
        place = None if reference else self._oldest_to_replace()
        if place is not None:
            self.keys[:, :, place] = features
            self.labels[:, :, place] = labels
            self.slots[place] = slot
        elif self.slots:
            self.keys = torch.cat((self.keys, features[:, :, None]), dim=2)
            self.labels = torch.cat((self.labels, labels[:, :, None]), dim=2)
            self.slots.append(slot)
        else:
            self.keys, self.labels, self.slots = features[:, :, None].clone(), labels[:, :, None].clone(), [slot]

    def drop_unused(self) -> None:
        """Forget the references that no object uses."""
        needed = set[int]().union(*(item.references for item in self.objects))
        keep = [i for i, slot in enumerate(self.slots) if not slot.reference or slot.frame in needed]
        if len(keep) < len(self.slots):
            self.keys, self.labels = self.keys[:, :, keep], self.labels[:, :, keep]
            self.slots = [self.slots[i] for i in keep]

    def groups(self) -> list[tuple[list[int], list[bool]]]:
        """Return the objects that use the same slots: (their numbers, whether they use each slot)."""
        together: dict[tuple[int, int], list[int]] = {}
        for number, item in enumerate(self.objects):
            together.setdefault((item.first, item.latest), []).append(number)
        return [(numbers, self._sees(self.objects[numbers[0]])) for numbers in together.values()]

    def state(self) -> dict[str, Any]:
        """Return everything as tensors and plain values; see `restore`."""
        return {
            "keys": self.keys,
            "labels": self.labels,
            "slots": [asdict(slot) for slot in self.slots],
            "objects": [asdict(item) for item in self.objects],
        }

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Go back to a `state`, on a device."""
        self.keys, self.labels = state["keys"].to(device), state["labels"].to(device)
        self.slots = [Slot(**slot) for slot in state["slots"]]
        self.objects = [TrackedObject(**item) for item in state["objects"]]

    def _sees(self, item: TrackedObject) -> list[bool]:
        return [s.frame in item.references if s.reference else s.frame > item.latest for s in self.slots]

    def _oldest_to_replace(self) -> int | None:
        recent = [i for i, slot in enumerate(self.slots) if not slot.reference]
        return min(recent, key=lambda i: self.slots[i].frame) if len(recent) >= self.recent else None
