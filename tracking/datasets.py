"""Videos with masks: DAVIS 2016 and 2017, YouTube-VOS, and folders of frames.

A record has, besides `video` and `img_id` (its name):

    frame_paths       list of str, in order
    prompts           {number of a frame: arguments of `tracking.masks.read_mask`}: the objects given there
    annotation_paths  list of str or None, one per frame, or None where nothing is annotated
    binary            whether annotations tell one object from the background only; see `read_mask`
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.structures import BaseDataElement

from pe_spatial.common.errors import AnnotationError, UnreadableFile, few, suggest
from pe_spatial.common.reading import read_json, read_text
from pe_spatial.data.annotations import file_below
from pe_spatial.data.dataset import DenseDataset
from pe_spatial.data.images import find_images
from pe_spatial.tracking.masks import (
    first_with_objects,
    holds_numbers,
    lies_there,
    mask_fault,
    mask_files,
    read_mask,
)

Record = dict[str, Any]


@TRANSFORMS.register_module()
class PackVideo:
    """A record to what a tracker's `forward` takes: nothing is decoded, the tracker reads frame by frame."""

    def __call__(self, record: Record) -> Record:
        """Pack one record."""
        sample = BaseDataElement(metainfo={key: value for key, value in record.items() if key != "sample_idx"})
        return {"inputs": record["video"], "data_samples": sample}


class VideoDataset(DenseDataset):
    """Base of the video datasets; a subclass says which videos there are and what is given of them.

    Args:
        data_root: Folder of the dataset.
        split: Part of it, as the dataset names it.
        videos: Names to take; None takes all of the split.
        **kwargs: Those of `DenseDataset`.
    """

    binary = False  # whether everything that is marked is one object, in every video

    def __init__(
        self, data_root: str, split: str | None = None, videos: Iterable[str] | None = None, **kwargs: Any
    ) -> None:
        self.split = split
        self.videos = None if videos is None else list(videos)
        super().__init__(data_root=data_root, pipeline=[{"type": "PackVideo"}], test_mode=True, **kwargs)

    def video_names(self) -> list[str]:
        """The videos of the split."""
        raise NotImplementedError

    def folders(self, name: str) -> tuple[Path, Path]:
        """The folders of the frames and of the masks of one video."""
        raise NotImplementedError

    def prompts(self, name: str, frames: list[str], masks: list[str | None], binary: bool | None) -> dict[int, Record]:
        """What is given of one video: arguments of `read_mask` by the number of the frame; here the first objects.

        Args:
            name: Of the video.
            frames: Its files.
            masks: The file of the mask of each frame, or None.
            binary: See `read_mask`.
        """
        first = first_with_objects(masks, binary)
        if first is None:
            folder = self.folders(name)[1]
            raise FileNotFoundError(
                f"{folder} has no mask with the name of a frame; put {Path(frames[0]).stem}.png there "
                f"({lies_there(folder)})"
            )
        return {first: {"path": masks[first]}}

    def load_video(self, name: str) -> Record:
        """The record of one video."""
        frame_folder, mask_folder = self.folders(name)
        frames = find_images(frame_folder, recursive=False)
        present = mask_files(mask_folder)
        masks = [present.get(Path(frame).stem) for frame in frames]
        if stray := stray_masks(frames, masks, present):
            warnings.warn(stray, stacklevel=2)
        binary = True if self.binary else False if holds_numbers(masks) else None
        prompts = self.prompts(name, frames, masks, binary)
        for given in prompts.values():
            given["binary"] = binary
            check_prompt(given["path"])
        return {"frame_paths": frames, "prompts": prompts, "annotation_paths": masks, "binary": binary}

    def load_data_list(self) -> list[Record]:
        """One record per video.

        Raises:
            FileNotFoundError: No such folder, list, or video.
            AnnotationError: A list names a video outside the dataset, masks are called other than the frames, or those
                that say what to track hold no object numbers.
        """
        if not Path(self.data_root).is_dir():
            raise FileNotFoundError(f"{type(self).__name__}: no folder {self.data_root}; set data_root to the dataset")
        names = self.video_names()
        unknown = [name for name in self.videos or () if name not in names]
        if unknown:
            raise FileNotFoundError(
                f"{type(self).__name__}: no video {unknown[0]!r} in {self.data_root}, split {self.split}; "
                f"{suggest(unknown[0], names)}"
            )
        for name in names:
            file_below(self.data_root, name, f"{type(self).__name__}, split {self.split}")
        return [{"img_id": name, "video": name, **self.load_video(name)} for name in self.videos or names]


class _Davis(VideoDataset):
    """DAVIS: `JPEGImages/480p/NAME/*.jpg`, `Annotations/480p/NAME/*.png`, lists in `ImageSets`.

    Args:
        data_root: Folder of the dataset.
        split: `train`, `val`, …: a list in `ImageSets`; None takes every folder.
        resolution: `480p` or `Full-Resolution` (`1080p` in DAVIS 2016).
        **kwargs: Those of `VideoDataset`.
    """

    lists: tuple[str, ...] = ()

    def __init__(self, data_root: str, split: str | None = None, resolution: str = "480p", **kwargs: Any) -> None:
        self.resolution = resolution
        super().__init__(data_root, split, **kwargs)

    def video_names(self) -> list[str]:
        """See `VideoDataset`."""
        frames = Path(self.data_root) / "JPEGImages" / self.resolution
        if self.split is None:
            return folder_names(frames)
        for name in self.lists:
            path = Path(self.data_root) / "ImageSets" / name.format(self.resolution) / f"{self.split}.txt"
            if path.is_file():
                return read_names(path)
        raise FileNotFoundError(
            f"no list {self.split}.txt in {Path(self.data_root) / 'ImageSets'}; restore it, or set split to null for "
            "every video in the folder"
        )

    def folders(self, name: str) -> tuple[Path, Path]:
        """See `VideoDataset`."""
        root = Path(self.data_root)
        return root / "JPEGImages" / self.resolution / name, root / "Annotations" / self.resolution / name

    def prompts(self, name: str, frames: list[str], masks: list[str | None], binary: bool | None) -> dict[int, Record]:
        """The mask of the first frame."""
        if masks[0] is None:
            folder = self.folders(name)[1]
            raise FileNotFoundError(
                f"{folder} has no {Path(frames[0]).stem}.png, the mask of the first frame, which marks the objects to "
                f"track ({lies_there(folder)})"
            )
        return {0: {"path": masks[0]}}


@DATASETS.register_module()
class Davis2016(_Davis):
    """DAVIS 2016: everything that moves is one object."""

    lists = ("2016", "{}")
    binary = True


@DATASETS.register_module()
class Davis2017(_Davis):
    """DAVIS 2017: several objects, all given on the first frame."""

    lists = ("2017",)


@DATASETS.register_module()
class YouTubeVOS(VideoDataset):
    """YouTube-VOS: `SPLIT/JPEGImages/NAME`, `SPLIT/Annotations/NAME`, `SPLIT/meta.json`.

    Objects enter on the frame on which they first appear; without `meta.json` the annotations are read to find it.
    """

    def video_names(self) -> list[str]:
        """See `VideoDataset`."""
        frames = self._root / "JPEGImages"
        if not frames.is_dir():
            raise FileNotFoundError(f"{frames} is not a folder; YouTube-VOS has SPLIT/JPEGImages and SPLIT/Annotations")
        return folder_names(frames)

    def folders(self, name: str) -> tuple[Path, Path]:
        """See `VideoDataset`."""
        return self._root / "JPEGImages" / name, self._root / "Annotations" / name

    def prompts(self, name: str, frames: list[str], masks: list[str | None], binary: bool | None) -> dict[int, Record]:
        """The masks of objects on the frames on which they appear."""
        entries = self._entries(name, masks, binary)
        if not entries:
            raise FileNotFoundError(f"{self.folders(name)[1]} lists no object; restore the annotations")
        return {frame: {"path": masks[frame], "only": ids} for frame, ids in sorted(entries.items())}

    @property
    def _root(self) -> Path:
        return Path(self.data_root) / (self.split or "")

    def _entries(self, name: str, annotations: list[str | None], binary: bool | None) -> dict[int, list[int]]:
        """Objects by the number of the frame on which they first appear."""
        entries: dict[int, list[int]] = {}
        meta = self._root / "meta.json"
        if meta.is_file():
            numbers = {Path(path).stem: frame for frame, path in enumerate(annotations) if path}
            try:
                for key, item in read_json(meta)["videos"][name]["objects"].items():
                    appearances = [numbers[stem] for stem in item["frames"] if stem in numbers]
                    if appearances:
                        entries.setdefault(min(appearances), []).append(int(key))
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise AnnotationError(
                    f"{meta}: does not list the objects of {name} as videos.{name}.objects.NUMBER.frames "
                    f"({type(error).__name__}: {error})"
                ) from error
            return entries
        known: set[int] = set()
        for frame, path in enumerate(annotations):
            new = set() if path is None else set(read_mask(path, binary=binary).unique().tolist()) - known - {0}
            if new:
                entries[frame] = sorted(new)
                known |= new
        return entries


@DATASETS.register_module()
class VideoFolder(VideoDataset):
    """Folders of frames: every subfolder of `frames`, or `frames` itself, is a video.

    Args:
        data_root: Folder that holds the others.
        frames: Folder of the frames, relative to it.
        masks: Folder of the masks, relative to it: for each video, masks by the names of their frames. The first one
            with an object says what to track; the others, if there are any, are what is scored.
        **kwargs: Those of `VideoDataset`, which has no splits here.
    """

    def __init__(self, data_root: str, frames: str = "JPEGImages", masks: str = "Annotations", **kwargs: Any) -> None:
        self.frames, self.masks = frames, masks
        super().__init__(data_root, **kwargs)

    def video_names(self) -> list[str]:
        """See `VideoDataset`."""
        return folder_names(Path(self.data_root) / self.frames) or ["."]

    def folders(self, name: str) -> tuple[Path, Path]:
        """See `VideoDataset`."""
        return Path(self.data_root) / self.frames / name, Path(self.data_root) / self.masks / name


def stray_masks(frames: Sequence[str], masks: Sequence[str | None], present: Mapping[str, str]) -> str:
    """What is to be said of masks that are called like no frame; empty if there are none.

    Args:
        frames: The files of a video.
        masks: The mask of each, or None.
        present: All masks by their names without suffix.

    Raises:
        AnnotationError: There are as many masks as frames, so that some belong to frames of other names.
    """
    stems = [Path(frame).stem for frame in frames]
    strays = [path for name, path in present.items() if name not in set(stems)]
    if not strays or not any(masks):  # none at all is refused with more to say
        return ""
    bare = next(stem for stem, mask in zip(stems, masks, strict=True) if mask is None) if None in masks else None
    if bare is not None and len(present) == len(frames):
        raise AnnotationError(
            f"{strays[0]} does not match the name of any frame, and frame {bare} has no mask, although there "
            f"are {len(frames)} of each: the numbers may be shifted; give each mask the name of its frame"
        )
    return f"masks that do not match the name of any frame are left out: {len(strays)} ({few(strays)})"


def check_prompt(path: str) -> None:
    """Refuse a mask that says what to track and cannot hold object numbers; one that cannot be read is named later.

    Raises:
        AnnotationError: See `mask_fault`.
    """
    with suppress(UnreadableFile):
        if fault := mask_fault(path):
            raise AnnotationError(fault)


def folder_names(root: Path) -> list[str]:
    """Names of the folders in a folder, in order; none where it does not exist."""
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def read_names(path: Path) -> list[str]:
    """Names of videos from a list of names (DAVIS 2017) or of frames and masks (DAVIS 2016)."""
    lines = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    return list(dict.fromkeys(Path(line).parent.name if "/" in line else line for line in lines))
