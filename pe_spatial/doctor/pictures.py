"""What the doctor asks of the pictures of any dataset: how they are turned, and whether anything is left of them."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from pe_spatial.common.errors import MissingPackage, UnreadableFile
from pe_spatial.common.pictures import FEW_LEVELS, guessed_bits, picture_facts, read_bands_of
from pe_spatial.doctor.check import DatasetCheck, Record, Sample
from pe_spatial.doctor.findings import Finding

_BINARY = 2  # drawings have no more, and need none
_BLACK = 16  # the brightest value of a picture that is nearly black
_LABELS = ("instances", "seg_map_path", "depth_path")


class PictureCheck(DatasetCheck):
    """EXIF turns that labels may not have followed, guessed ranges of values, and few gray levels."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self._ranges: Counter[int] = Counter()  # files of more than 8 bits, by the bits they are taken to have
        self._example = ""
        loaders = [step for step in getattr(dataset.pipeline, "transforms", ()) if hasattr(step, "rule")]
        self._states_range = any(step.rule.value_range is not None for step in loaders)
        self._applies_exif = all(getattr(step, "apply_exif", True) for step in loaders)

    @classmethod
    def concerns(cls, dataset: Any, record: Record) -> bool:
        """Records of pictures."""
        return "img_path" in record

    def inspect_sample(self, record: Record, sample: Sample | None) -> Any:
        """What the file is, and the gray levels of what was read."""
        try:
            layout = picture_facts(record["img_path"], record.get("archive"))
        except (UnreadableFile, MissingPackage, OSError):
            return None
        image = None if sample is None else sample.get("img")
        levels = None
        if image is not None:
            counts = np.bincount(image.numpy().reshape(-1), minlength=256)
            is_gray = layout.bands < 3 or bool((image[0] == image[1]).all() and (image[1] == image[2]).all())
            levels = is_gray, int((counts > 0).sum()), int(counts.nonzero()[0].max(initial=0))
        bits = None
        if image is not None and layout.bits > 8 and not self._states_range and "archive" not in record:
            bits = guessed_bits(read_bands_of(record["img_path"]), layout)
        return record["img_path"], layout, levels, bits, any(key in record for key in _LABELS)

    def collect(self, seen: Any) -> Iterable[Finding]:
        """Judge one picture."""
        if seen is None:
            return
        path, layout, levels, bits, is_labeled = seen
        if bits is not None:
            self._ranges[bits] += 1
            if bits < 16 and not self._example:
                self._example = f"{path} ({layout})"
        turned = layout.size if layout.orientation < 5 else layout.size[::-1]
        if is_labeled and layout.orientation > 1 and turned == layout.size and self._applies_exif:
            example = f"{path}: orientation {layout.orientation}; if not, set apply_exif=False in LoadImage"
            yield Finding(
                "warning",
                "images that EXIF rotates: check on the contact sheet whether their labels rotate too",
                example,
            )
        if levels is not None:
            is_gray, count, brightest = levels
            if brightest < _BLACK:
                yield Finding(
                    "warning", "pictures that are nearly black", f"{path} ({layout}): at most {brightest} of 255"
                )
            elif is_gray and _BINARY < count <= FEW_LEVELS:
                example = f"{path} ({layout}): {count} gray levels are left of 256; see value_range of LoadImage"
                yield Finding("warning", "pictures of few gray levels", example)

    def finish(self) -> Iterable[Finding]:
        """Whether the range of the values is guessed."""
        if self._example:
            guesses = ", ".join(f"0…{2**bits - 1} in {count}" for bits, count in sorted(self._ranges.items()))
            left = 2 ** (min(self._ranges) - 8)
            yield Finding(
                "warning",
                "pictures whose range of values is guessed",
                f"{self._example}: the range is taken as {guesses} of {self._ranges.total()} files (as 0…65535, {left} "
                "gray levels would be left); set value_range of LoadImage, one for all",
            )
