"""The order of training samples: an endless shuffled stream that is a pure function of (seed, position)."""

from collections.abc import Iterator, Sized

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from pe_spatial.common.errors import OptionError


class Draw(int):
    """A dataset index that knows which draw of the training run it is.

    `DenseDataset` seeds its augmentations from (seed, number), so that they depend neither on the number of worker
    processes nor on when the process started.

    Args:
        index: Row of the dataset.
        number: Position in the global stream of draws, counted from 0 over all ranks.
        seed: Seed of the run.
    """

    number: int
    seed: int

    def __new__(cls, index: int, number: int, seed: int) -> "Draw":  # noqa: D102 - the class says it
        draw = super().__new__(cls, index)
        draw.number = number
        draw.seed = seed
        return draw

    def __sub__(self, other: int) -> "Draw":  # how mmengine's ConcatDataset finds the row of a part
        return Draw(int(self) - other, self.number, self.seed)

    def __mod__(self, other: int) -> "Draw":  # how its RepeatDataset does
        return Draw(int(self) % other, self.number, self.seed)

    def __reduce__(self) -> tuple[type["Draw"], tuple[int, int, int]]:  # draws travel to worker processes by pickle
        return Draw, (int(self), self.number, self.seed)


@DATA_SAMPLERS.register_module()
class DrawSampler(Sampler[int]):
    """Endless stream of `Draw`s; one epoch follows another, each shuffled anew.

    Rank r of W takes the positions r, r+W, r+2W, …, so that iteration k of W ranks with B/W samples each consumes the
    same samples as iteration k of one rank with B. It is meant for iteration-based training loops: it never ends.

    Args:
        dataset: Anything with a length.
        seed: Same on every rank; mmengine's runner passes its own. None draws one and shares it among the ranks, and
            such a run cannot be continued in the same order.
        shuffle: False goes through the dataset in order.
    """

    def __init__(self, dataset: Sized, seed: int | None = None, shuffle: bool = True) -> None:
        if len(dataset) == 0:
            raise OptionError("the dataset is empty; check its annotation file and its filters")
        self.dataset = dataset
        self.seed = sync_random_seed() if seed is None else seed
        self.shuffle = shuffle
        self.rank, self.world_size = get_dist_info()
        self._consumed = 0

    def epoch_indices(self, epoch: int) -> list[int]:
        """The dataset rows of one epoch in their order; a pure function of (seed, epoch), at least one row long.

        Subclasses that weigh or repeat samples override this; epochs may differ in length.
        """
        size = len(self.dataset)
        if not self.shuffle:
            return list(range(size))
        return torch.randperm(size, generator=self.generator(epoch)).tolist()

    def generator(self, epoch: int) -> torch.Generator:
        """Random numbers for one epoch, equal on all ranks."""
        # an odd multiplier keeps the streams of neighboring seeds apart: seed 1, epoch 0 is not seed 0, epoch 1
        return torch.Generator().manual_seed((self.seed * 0x9E3779B97F4A7C15 + epoch) % 2**63)

    def __iter__(self) -> Iterator[Draw]:
        """The draws of this rank from the position set by `skip`; every call starts there again."""
        position = self._consumed * self.world_size + self.rank
        epoch, start = 0, 0  # `start` is the global position of the epoch's first draw
        while True:
            indices = self.epoch_indices(epoch)
            while position < start + len(indices):
                yield Draw(indices[position - start], position, self.seed)
                position += self.world_size
            epoch, start = epoch + 1, start + len(indices)

    def skip(self, num_samples: int) -> None:
        """Start the next iteration after the first `num_samples` draws of this rank (absolute, not relative).

        mmengine's training loop calls this when it resumes; nothing is loaded.
        """
        if num_samples < 0:
            raise OptionError(f"num_samples {num_samples} is negative; it is the number of samples taken so far")
        self._consumed = num_samples

    def __len__(self) -> int:
        """Draws of this rank in one pass over the dataset, rounded up."""
        return -(-len(self.dataset) // self.world_size)
