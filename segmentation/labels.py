"""Label files to `sem_seg`: what their values stand for belongs to their dataset."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from numpy.typing import NDArray
from torchvision import tv_tensors

from pe_spatial.common.contracts import Loader
from pe_spatial.common.errors import AnnotationError, few
from pe_spatial.common.pictures import read_indices
from pe_spatial.data.sample import IGNORE_LABEL

Color = tuple[int, int, int]

_SMOOTH = 8  # values outside the class list that no wrong numbering explains
_LARGEST_TABLE = 2**16  # entries; files of 32 bits hold larger values


@dataclass(frozen=True)
class LabelFormat:
    """How the values of a dataset's label files stand for its classes.

    Args:
        classes: Names by index.
        meaning: Class index by value of the file; 255 marks "no label". Other values are errors.
        colors: Class index (or 255) by color, for files that hold colors instead of values.
    """

    classes: tuple[str, ...]
    meaning: Mapping[int, int]
    colors: Mapping[Color, int] = field(default_factory=dict)

    @classmethod
    def counting(
        cls,
        classes: Sequence[str],
        zero_is_ignored: bool = False,
        ignored: Iterable[int] | None = None,
        colors: Mapping[Color, int] | None = None,
    ) -> "LabelFormat":
        """Values that count the classes from 0, or from 1 with 0 for "no label".

        Args:
            classes: Names by index.
            zero_is_ignored: Whether they count from 1.
            ignored: Values for "no label"; None: 255, unless a class has it. A class wins over them.
            colors: As of the class.
        """
        meaning = dict.fromkeys((IGNORE_LABEL,) if ignored is None else ignored, IGNORE_LABEL)
        meaning |= {value: index for index, value in enumerate(range(zero_is_ignored, len(classes) + zero_is_ignored))}
        if zero_is_ignored:
            meaning[0] = IGNORE_LABEL
        return cls(tuple(classes), meaning, colors or {})

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= IGNORE_LABEL:
            raise AnnotationError(
                f"the class list has {len(self.classes)} classes; give 1 to {IGNORE_LABEL} classes ({IGNORE_LABEL} "
                "marks pixels without a label)"
            )
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise AnnotationError(f"the class list names {twice!r} more than once; every class needs its own name")

    def read(self, path: str | Path) -> NDArray[np.int64]:
        """A label file as class indices [H, W], 255 where nothing is labeled.

        Raises:
            UnreadableFile: The file is missing, damaged or no image.
            AnnotationError: A value or a color that is not in the class list.
        """
        values = self.stored(path)
        return self._of_values(path, values) if values.ndim == 2 else self._of_colors(path, values)

    def stored(self, path: str | Path) -> NDArray[Any]:
        """What a label file holds: values [H, W], or the colors [H, W, 3] that stand for classes; errors as of `read`.

        Where classes have colors, those of a palette count, and gray ones where the file has no others.
        """
        values = read_indices(path, colors=True, palette=bool(self.colors))
        if values.ndim == 2 and self.colors:
            grays = [red for red, green, blue in self.colors if red == green == blue]
            if len(grays) == len(self.colors) and np.isin(values, grays).all():
                return np.repeat(values[..., None].astype(np.uint8), 3, axis=2)
        return values

    def _of_values(self, path: str | Path, values: NDArray[np.int64]) -> NDArray[np.int64]:
        largest = max(int(values.max(initial=0)), *self.meaning)
        if largest < _LARGEST_TABLE and values.min(initial=0) >= 0:
            table = np.full(largest + 1, -1)
            table[list(self.meaning)] = list(self.meaning.values())
            labels = table[values]
        else:
            labels = look_up(values, self.meaning)
        if (labels < 0).any():
            wrong, counts = np.unique(values[labels < 0], return_counts=True)
            raise AnnotationError(
                f"{path}: {_list(wrong.tolist(), counts.tolist())} outside the class list of {len(self.classes)} "
                f"classes, which has the values {self._expected()}; "
                f"{self._remedy(wrong.tolist(), counts.tolist(), values)}"
            )
        return labels

    def _of_colors(self, path: str | Path, values: NDArray[np.uint8]) -> NDArray[np.int64]:
        if not self.colors:
            raise AnnotationError(
                f"{path} contains colors, not class indices; save it as grayscale or palette PNG, or add the color of "
                "every class to the class list"
            )
        packed = pack(values)
        labels = look_up(packed, {red | green << 8 | blue << 16: n for (red, green, blue), n in self.colors.items()})
        if (labels < 0).any():
            wrong, counts = np.unique(packed[labels < 0], return_counts=True)
            named = [(color & 255, color >> 8 & 255, color >> 16) for color in wrong.tolist()]
            raise AnnotationError(
                f"{path}: {_list(named, counts.tolist(), 'color')} not among the colors of the {len(self.classes)} "
                f"classes ({counts.sum() / labels.size:.1%} of the pixels); correct the file or its palette (a lossy "
                "format such as JPEG, or smooth resizing, blurs colors), add the color to a class, or add it to "
                "ignore"
            )
        return labels

    def _expected(self) -> str:
        values = sorted(self.meaning)
        runs = np.split(values, np.flatnonzero(np.diff(values) != 1) + 1)
        return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}…{run[-1]}" for run in runs)

    def _remedy(self, wrong: list[int], counts: list[int], values: NDArray[np.int64]) -> str:
        present = np.unique(values).tolist()
        if set(present) <= {0, 255}:
            return "a binary mask of 0 and 255: save it with the values 0 and 1"
        if len(wrong) >= _SMOOTH:
            return (
                f"{sum(counts) / values.size:.1%} of the pixels have {len(wrong)} such values, which come from smooth "
                "resizing or JPEG; save the file again without both"
            )
        if wrong == [len(self.classes)] and 0 in self.meaning and self.meaning[0] == 0:
            return "the files may count classes from 1: set zero_is_ignored, or add the missing class"
        return f"correct the file or the class list, or mark such pixels {IGNORE_LABEL}"


@TRANSFORMS.register_module()
class LoadSegmentation(Loader):
    """`seg_map_path` to `sem_seg`: int64 [1, H, W] class indices in the frame of the decoded image, 255 = no label.

    What the values of the file stand for comes with the record (`label_format`), for it belongs to the dataset.
    """

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Load one label map.

        Raises:
            UnreadableFile: The file is missing, damaged or no image.
            AnnotationError: Another size than the image, or a value outside the class list.
        """
        path = sample["seg_map_path"]
        labels = sample["label_format"].read(path)
        self.check_size(path, labels.shape, sample)
        rest = {key: value for key, value in sample.items() if key != "label_format"}
        return {**rest, "sem_seg": tv_tensors.Mask(torch.from_numpy(labels)[None])}  # [1, H, W]


def pack(colors: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Colors [H, W, 3] as one number each [H, W]: R + 256 G + 65536 B."""
    channels = colors.astype(np.int32)
    return channels[..., 0] | channels[..., 1] << 8 | channels[..., 2] << 16


def look_up(values: NDArray[np.integer], meaning: Mapping[int, int]) -> NDArray[np.int64]:
    """What each value means, -1 where it means nothing. For values too large for a table."""
    keys = np.array(sorted(meaning), dtype=values.dtype)
    if not len(keys):
        return np.full(values.shape, -1)
    place = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    return np.where(keys[place] == values, np.array([meaning[key] for key in keys.tolist()])[place], -1)


def _list(values: Sequence[object], counts: Sequence[int], noun: str = "value") -> str:
    shown = few((f"{value} ({count} pixels)" for value, count in zip(values, counts, strict=True)), 5)
    return f"{noun}s {shown} are" if len(values) > 1 else f"{noun} {shown} is"
