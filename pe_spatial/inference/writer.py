"""What becomes of predictions: the base of the writers of all tasks."""

import re
import threading
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from torch import Tensor

from pe_spatial.common.files import remove_leftovers, write_json_stream
from pe_spatial.common.pictures import save_image
from pe_spatial.common.records import HIDDEN, Records, Stamp, Unit, stamp_of
from pe_spatial.common.video import VideoWriter
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.stream import Source
from pe_spatial.visualization.layout import PICTURE_SIZE

PICTURES = "pictures"
FAILED = "failed.json"


class ResultsWriter(ABC):
    """Writes the predictions of a run into a folder that other processes and later runs write to as well.

    A finished picture is recorded at once. The lists are made of the records, in the order of names, and are the same
    whether or not the run was killed in between. A video is finished with all its frames.

        OUT/pictures/NAME            a drawn picture of every image, a drawn video of every video
        OUT/failed.json              the pictures that failed and why; absent if none did

    Args:
        records: Of the output folder; the writer claims it.
        stems: Names of the files to write, without suffix, by names of the input.
        predictor: Whose predictions are written; None where a command has none.
        options: Of the command; `no_pictures`, maybe `picture_size`, and what the task takes.
        kinds: What a finished picture leaves besides the drawing.

    Attributes:
        metainfo: Of the data that the model was trained on.
        result: Name of the list that a task leaves, in the output folder.
        places: The other files and folders that it writes to.
        kinds: What a finished picture leaves: entries of its record that name a file.
        longest: Pixels of the longer side of a drawing at most; larger photographs are reduced.
    """

    result: ClassVar[str]
    places: tuple[str, ...] = ()

    def __init__(
        self,
        records: Records,
        stems: Mapping[str, str],
        predictor: Predictor | None,
        options: Namespace,
        kinds: Sequence[str] = (),
    ) -> None:
        self.records = records
        self.folder = records.folder
        self.stems = stems
        self.metainfo: Mapping[str, Any] = {} if predictor is None else predictor.metainfo
        self.kinds = tuple(kinds) if options.no_pictures else (*kinds, PICTURES)
        self.longest: int = getattr(options, "picture_size", None) or PICTURE_SIZE
        self._stamps: dict[str, Stamp | None] = {}
        self._frame_files: dict[str, dict[int, dict[str, str]]] = {}
        self._lock = threading.Lock()
        self._video: VideoWriter | None = None
        places = (self.result, *self.places, PICTURES)
        records.claim(places)
        for place in (*places, HIDDEN):
            remove_leftovers(self.folder / place, recursive=True)
        remove_leftovers(self.folder)

    # --- of every task ------------------------------------------------------------------------------------------------
    @abstractmethod
    def describe(self, stem: str, image: Tensor, sample: BaseDataElement, frame: int | None) -> dict[str, Any]:
        """Write the files of a picture; may run in any thread.

        Args:
            stem: Path of the files below the folder of their kind, without suffix.
            image: uint8 [3, H, W] RGB, the original image.
            sample: In the frame of `image`, on the CPU.
            frame: Number of the frame of a video, from 0.

        Returns:
            What the lists say of it, as JSON, and the paths of its files by their kind.
        """

    @abstractmethod
    def draw(self, image: Tensor, sample: BaseDataElement, frame: int | None) -> Tensor:
        """The picture uint8 [3, H', W'] RGB of a prediction."""

    @abstractmethod
    def write_lists(self) -> None:
        """Write `result`, and what else the task makes of all records."""

    # --- what is missing ----------------------------------------------------------------------------------------------
    def plan(self, files: Mapping[str, str | Path]) -> list[str]:
        """The names of files whose results are missing; those of a file that has changed are.

        Args:
            files: The paths by the names; of pictures in an archive, that of the archive.
        """
        done, outdated = set(), []
        for unit in self.records.units():
            if unit.name in files and unit.files is not None:
                if unit.stamp is not None and unit.stamp == stamp_of(files[unit.name]) and self._is_complete(unit):
                    done.add(unit.name)
                else:
                    outdated.append(unit.name)
        if outdated:
            self.records.forget(outdated)
        missing = [name for name in files if name not in done]
        self.stamp({name: files[name] for name in missing})
        return missing

    def stamp(self, files: Mapping[str, str | Path]) -> None:
        """Note what the files that are to be done are like before they are read."""
        self._stamps = {name: stamp_of(path) for name, path in files.items()}

    def _is_complete(self, unit: Unit) -> bool:
        files = unit.paths()
        wanted = [files.get(kind) for kind in self.kinds]
        paths = chain.from_iterable([path] if isinstance(path, str) else path or [""] for path in wanted)
        return all((self.folder / path).is_file() for path in paths)

    # --- writing ------------------------------------------------------------------------------------------------------
    def write(
        self, name: str, image: Tensor, sample: BaseDataElement, frame: int | None = None
    ) -> NDArray[np.uint8] | None:
        """Write what was predicted for one picture and, where asked for, draw it; may run in any thread.

        Args:
            name: Of the file, relative to the input.
            image: uint8 [3, H, W] RGB, the original image.
            sample: In the frame of `image`.
            frame: Number of the frame where `name` is a video, from 0; it counts when the video is finished.

        Returns:
            [H', W', 3] uint8 RGB, the drawn picture; small images come back enlarged, large ones reduced.
        """
        picture, record = self.write_files(name, image, sample, frame)
        record()
        return picture

    def write_files(
        self, name: str, image: Tensor, sample: BaseDataElement, frame: int | None = None
    ) -> tuple[NDArray[np.uint8] | None, Callable[[], None]]:
        """Do the work of `write` but for the record, which what is returned last makes."""
        sample = sample.cpu()
        stem = self.stems[name] if frame is None else f"{self.stems[name]}/{frame:06d}"
        content: dict[str, Any] = {"file_name": name} | ({} if frame is None else {"frame": frame})
        content |= self.describe(stem, image, sample, frame)
        drawn = self.draw(image, sample, frame) if PICTURES in self.kinds else None
        files = {kind: content[kind] for kind in self.kinds if kind != PICTURES}
        if frame is None and drawn is not None:
            suffix = ".jpg" if name.lower().endswith((".jpg", ".jpeg")) else ".png"
            files[PICTURES] = f"{PICTURES}/{self.stems[name]}{suffix}"
            save_image(self.folder / files[PICTURES], drawn)
        record = partial(self.record, name, frame, content, files)
        return None if drawn is None else drawn.permute(1, 2, 0).numpy(), record

    def record(self, name: str, frame: int | None, content: Mapping[str, Any], files: Mapping[str, Any]) -> None:
        """Note that the files of a picture, or of a frame, are written; may run in any thread.

        Args:
            name: Of the file, relative to the input.
            frame: Number of the frame where `name` is a video.
            content: What the lists say of it.
            files: Paths relative to the output folder, by kind.
        """
        if frame is None:
            self.records.add(name, content, self._stamps.get(name), files)
            return
        with self._lock:
            self._frame_files.setdefault(name, {})[frame] = dict(files)
        self.records.add_frame(name, frame, content)

    def fail(self, name: str, problem: str) -> None:
        """Note why a picture, or a video, failed."""
        self.records.fail(name, problem)

    def add_frame(self, source: Source, name: str, picture: NDArray[np.uint8] | None) -> None:
        """Append a drawn frame to the video of its file; frames of a video come in order, from one thread."""
        if picture is None:
            return
        if self._video is None:
            self._video = VideoWriter(self.folder / self.video_place(name), source.frames_per_second or 25.0)
        self._video.write(torch.from_numpy(picture).permute(2, 0, 1), source.time, source.duration)

    def video_place(self, name: str) -> str:
        """Where the drawn video of a file goes, in the output folder."""
        return f"{PICTURES}/{self.stems[name]}.mp4"

    def finish_video(self, name: str, frames: int) -> None:
        """Note that all frames of a video were written."""
        by_frame = self._frame_files.pop(name, {})
        files: dict[str, Any] = {
            kind: [by_frame[frame][kind] for frame in range(frames)] for kind in self.kinds if kind != PICTURES
        }
        self.remove_later_frames(files, frames)
        if self._video is not None:
            self._video.close()
            self._video = None
            files[PICTURES] = self.video_place(name)
        self.records.add(name, None, self._stamps.get(name), files, frames)

    def remove_later_frames(self, files: Mapping[str, Sequence[str]], frames: int) -> None:
        """Remove what an earlier, longer version of a video has left.

        Args:
            files: Of the video, by kind.
            frames: How many it has.
        """
        for folder in {(self.folder / paths[0]).parent for paths in files.values()}:
            for path in folder.iterdir():
                number = re.match(r"\d{6,}", path.name)
                if number and int(number[0]) >= frames:
                    path.unlink()

    def discard_video(self, name: str) -> None:
        """Forget a video that was interrupted; its frames stay."""
        self._frame_files.pop(name, None)
        if self._video is not None:
            self._video.discard()
            self._video = None

    def remove_video(self, name: str) -> None:
        """Forget a video that failed, and remove what was written of its frames."""
        written = [
            self.folder / place for files in self._frame_files.pop(name, {}).values() for place in files.values()
        ]
        for path in written:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in written}:
            with suppress(OSError):  # it holds more
                folder.rmdir()
        self.discard_video(name)

    def leave(self) -> None:
        """Stop writing; another process writes the lists."""
        self.records.close()

    def close(self) -> Path:
        """Write the lists, whole or not at all, of the records of all processes, and return the path of the main one.

        What was finished before is in them whatever has ended the run. A list that another process writes afterwards
        has more.
        """
        if self._video is not None:
            self._video.discard()
            self._video = None
        with self.records.list_lock():
            self.write_lists()
            self._write_failures()
        self.records.close()
        return self.folder / self.result

    def _write_failures(self) -> None:
        units = (unit for unit in self.records.units() if unit.problem is not None)
        failures = ({"file_name": unit.name, "problem": unit.problem} for unit in units)
        first = next(failures, None)
        if first is None:
            (self.folder / FAILED).unlink(missing_ok=True)
        else:
            write_json_stream(self.folder / FAILED, {"files": chain([first], failures)})
