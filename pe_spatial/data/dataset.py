"""The base of all our datasets: mmengine's BaseDataset with reproducible draws and a rule for unreadable files."""

import hashlib
import json
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from pe_spatial.common.errors import OptionError, UnreadableFile, require_choice
from pe_spatial.common.parts import build_options
from pe_spatial.data.holdout import Holdout
from pe_spatial.data.lazy import LazyRecords
from pe_spatial.data.sampler import Draw


class DenseDataset(BaseDataset):
    """Records to packed samples; a subclass writes `METAINFO` and `load_data_list` (see `pe_spatial.data.sample`).

    Args:
        *args, **kwargs: Those of mmengine's BaseDataset.
        unreadable: "raise" stops at the first file that cannot be read and names it. "skip" (training only) logs and
            counts it (see `unreadable_indices`) and takes another record instead; the choice is a function of the draw.
        holdout: Settings of `Holdout`: the dataset is the training or the validation part of its records.
    """

    def __init__(
        self,
        *args: Any,
        unreadable: Literal["raise", "skip"] = "raise",
        holdout: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        require_choice("unreadable", unreadable, ("raise", "skip"))
        if unreadable == "skip" and kwargs.get("test_mode", False):
            raise OptionError(
                "unreadable='skip' with test_mode=True would score fewer images than the dataset has; use 'raise'"
            )
        self.unreadable = unreadable
        self._fingerprint: str | None = None
        self.holdout = None if holdout is None else build_options(Holdout, holdout, "holdout")
        super().__init__(*args, **kwargs)

    def full_init(self) -> None:
        """Load the records; a step of the pipeline with a method `check_dataset` may then refuse this dataset.

        Raises:
            OptionError: No record is left.
        """
        if self._fully_initialized:
            return
        try:
            super().full_init()
        except IndexError as error:
            raise OptionError(
                f"indices {self._indices} must all be positions among its {len(self.data_list)} records"
            ) from error
        self._require_records(len(self))
        # shared among the worker processes, which only ever set entries to True: no lock is needed
        self._unreadable = torch.zeros(len(self), dtype=torch.bool).share_memory_()
        for step in self.pipeline.transforms:
            if hasattr(step, "check_dataset"):
                step.check_dataset(self)

    def filter_data(self) -> Sequence[dict[str, Any]]:
        """Leave out what another part holds, where there is a `holdout`."""
        if self.holdout is None:
            return self.data_list
        return self.take_part(self.data_list, [record["img_path"] for record in self.data_list])

    def take_part(self, records: Sequence[dict[str, Any]], paths: Sequence[str]) -> Any:
        """The records of this part, all of them without a `holdout`; who counts objects asks in `load_data_list`.

        Args:
            records: All records, before any filter, so that the parts are the same whatever is filtered.
            paths: Of their pictures.
        """
        if self.holdout is None:
            return records
        rows = self.holdout.rows(paths)
        verb = "kept" if self.holdout.part == "train" else "held out"
        share, seed = self.holdout.share, self.holdout.seed
        text = f"{verb} {len(rows)} of {len(records)} images (share {share:g}, seed {seed}; equal files stay together)"
        print_log(text, logger="current")
        return records[rows] if isinstance(records, LazyRecords) else [records[row] for row in rows]

    def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]:
        self._require_records(len(self.data_list))  # mmengine's own message speaks of concatenating no arrays
        return super()._serialize_data()

    def _get_unserialized_subset(self, indices: Sequence[int] | int) -> Any:
        if not isinstance(self.data_list, LazyRecords):
            return super()._get_unserialized_subset(indices)
        if isinstance(indices, int):  # the first ones, or as a negative number the last ones
            return self.data_list[:indices] if indices >= 0 else self.data_list[indices:]
        return self.data_list[indices]

    def _require_records(self, count: int) -> None:
        if count == 0:
            source = self.ann_file or self.data_prefix or self.data_root
            raise OptionError(f"{type(self).__name__} is empty; check {source!r}, filter_cfg and indices")

    def image_paths(self) -> list[str]:
        """The pictures of all records, in their order."""
        return [self.get_data_info(index)["img_path"] for index in range(len(self))]

    def fingerprint(self) -> str:
        """A digest of the data: names of the pictures, in order, and objects of each class; made once.

        It is the same wherever the files are moved.
        """
        if self._fingerprint is None:
            names = [os.path.basename(path) for path in self.image_paths()]
            counts = self.class_counts() if hasattr(self, "class_counts") else {}
            self._fingerprint = hashlib.sha256(json.dumps([names, counts]).encode()).hexdigest()
        return self._fingerprint

    @property
    def unreadable_indices(self) -> list[int]:
        """Records whose files could not be read so far, in this process or in any of its loader workers."""
        self.full_init()
        return self._unreadable.nonzero().flatten().tolist()

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """The packed sample of a row. Given a `Draw`, augmentations are a function of its seed and number alone."""
        if not isinstance(idx, Draw):
            return super().__getitem__(idx)
        with seeded(idx.seed, idx.number):
            return super().__getitem__(int(idx))

    def prepare_data(self, idx: int) -> dict[str, Any] | None:
        """Run the pipeline; None asks mmengine's `__getitem__` for another record."""
        try:
            return super().prepare_data(idx)
        except UnreadableFile as error:
            if self.unreadable == "raise":
                raise
            if not self._unreadable[idx]:
                self._unreadable[idx] = True
                count = len(self.unreadable_indices)
                print_log(f"skipped ({count} so far): {error}", logger="current", level=logging.WARNING)
            return None


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed the CPU generators of torch, numpy and random from non-negative integers; restore them afterwards.

    Restoring matters when the pipeline runs in the training process: the model's random numbers stay its own.
    """
    torch_seed, numpy_seed, python_seed = np.random.SeedSequence(entropy).generate_state(3).tolist()
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(torch_seed)  # torch.manual_seed would reseed the GPUs too
    np.random.seed(numpy_seed)
    random.seed(python_seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
