"""The results of a tracker on disk, written so that an interruption loses nothing that is finished.

    OUT/NAME/00000.png         palette PNG of object numbers, one per frame (the layout of DAVIS)
    OUT/NAME.mp4               the video with the objects tinted
    OUT/NAME.json              boxes and areas of every object
    OUT/NAME.txt               the boxes in the format of MOTChallenge, on demand
    OUT/tracks.json            the finished videos
    OUT/.pe_spatial/resume/    the states of trackers in the midst of a video

A video is finished by its record, which is written last.
"""

import time
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from torch import Tensor

from pe_spatial.common.errors import UnreadableFile, UserError
from pe_spatial.common.files import write_json, write_json_stream, write_text
from pe_spatial.common.pictures import read_indices, save_image
from pe_spatial.common.records import HIDDEN, Records, Unit
from pe_spatial.common.tensors import read_tensor_file, require_finite, write_torch_file
from pe_spatial.inference.stream import Source
from pe_spatial.inference.writer import ResultsWriter
from pe_spatial.tracking.frames import Frame
from pe_spatial.visualization import draw_objects, palette

# seconds between two savings of the tracker's state; a rerun repeats at most this much
SAVE_EVERY = 10.0
# the columns of the boxes of one object: frame, x1, y1, x2, y2, area


_STATE = {"memory": Mapping, "ids": list, "frame": int, "sizes": Sequence}


class ResultsError(UserError, RuntimeError):
    """Results of an earlier run that cannot be used."""


class TrackingWriter(ResultsWriter):
    """Writes object masks of videos, one video at a time: `begin`, `add` for every frame, `finish`.

    Args:
        records: Of the output folder.
        stems: Names of the results by names of the videos.
        options: Of the command; `mot` asks for the boxes in the format of MOTChallenge too.
    """

    result = "tracks.json"

    def __init__(self, records: Records, stems: Mapping[str, str], options: Namespace) -> None:
        self.mot: bool = options.mot
        self.places = ("scores.json", *stems.values(), *(f"{stem}.json" for stem in stems.values()))
        super().__init__(records, stems, None, options, ("masks",))

    # --- one video ----------------------------------------------------------------------------------------------------
    def begin(self, name: str, rate: float) -> None:
        """Start a video.

        Args:
            name: Of the video.
            rate: Frames per second, for frames without times.
        """
        self._name, self._rate = name, rate
        self.frames: list[str] = []  # names of the frames that are written
        self._boxes: dict[int, list[tuple[int, list[int], int]]] = {}  # by object: frame, box and area
        self._saved = time.monotonic()

    def add(self, frame: Frame, ids: Tensor) -> None:
        """Write the result uint8 [H, W] of the next frame."""
        number = len(self.frames)
        sample = BaseDataElement(metainfo={"frame_name": frame.name}, ids=ids)
        picture = self.write(self._name, frame.image.cpu(), sample, number)
        self.frames.append(frame.name)
        self._note_boxes(ids.cpu().numpy(), number)
        self.add_frame(Source(Path(self._name), number, self._rate, frame.time, frame.duration), self._name, picture)

    def finish(self, skipped: Sequence[str] = ()) -> None:
        """Write the boxes, close the overlay video, record the video, and forget where to go on.

        Args:
            skipped: Names of frames that were left out.
        """
        if self.mot:
            write_text(self._file(".txt"), self._mot())
        write_json(self._file(".json"), self._json(skipped))
        self.finish_video(self._name, len(self.frames))
        self._state_of(self._name).unlink(missing_ok=True)

    def describe(self, stem: str, image: Tensor, sample: BaseDataElement, frame: int | None) -> dict[str, Any]:
        """Write the mask of a frame."""
        place = f"{self.stems[self._name]}/{sample.frame_name}.png"
        save_image(self.folder / place, sample.ids.numpy(), colors=palette(256).tolist())
        return {"masks": place}

    def draw(self, image: Tensor, sample: BaseDataElement, frame: int | None) -> Tensor:
        """The frame with its objects tinted, outlined and numbered."""
        return draw_objects(image, sample.ids) if bool(sample.ids.any()) else image

    def write_lists(self) -> None:
        """Write `tracks.json`, an entry for every finished video, and forget what a kill left of such videos."""
        for unit in self.finished():
            self._state_of(unit.name).unlink(missing_ok=True)
        write_json_stream(self.folder / self.result, {"videos": map(_entry_of, self.finished())})

    def finished(self) -> Iterator[Unit]:
        """What is known of the videos that are finished, by whatever process."""
        return (unit for unit in self.records.units() if unit.files is not None)

    def video_place(self, name: str) -> str:
        """Where the overlay of a video goes, in the output folder."""
        return f"{self.stems[name]}.mp4"

    def remove_later_frames(self, files: Mapping[str, Sequence[str]], frames: int) -> None:
        """Remove masks that an earlier version of the video has left."""
        written = {Path(place).name for place in files["masks"]}
        for path in (self.folder / self.stems[self._name]).glob("*.png"):
            if path.name not in written:
                path.unlink()

    # --- going on -----------------------------------------------------------------------------------------------------
    def load_state(self) -> Mapping[str, Any] | None:
        """What `save_state` saved, if the video was interrupted; of a damaged state a warning tells."""
        path = self._state_of(self._name)
        if not path.is_file():
            return None
        try:
            state = read_tensor_file(path)
            require_finite(path, state)
            if not all(isinstance(state.get(name), kind) for name, kind in _STATE.items()):
                raise ResultsError(f"{path} is damaged: it contains no tracker state")
        except (UserError, OSError) as error:
            warnings.warn(f"{error}. {self._name} is tracked from its start", stacklevel=2)
            return None
        return state

    def save_state(self, state: Mapping[str, Any], *, force: bool = False) -> None:
        """Save a tracker's state, unless the last one is younger than `SAVE_EVERY`."""
        if not force and time.monotonic() - self._saved < SAVE_EVERY:
            return
        self._state_of(self._name).parent.mkdir(parents=True, exist_ok=True)
        write_torch_file(dict(state), self._state_of(self._name))
        self._saved = time.monotonic()

    def read(self, frame: Frame) -> NDArray[np.uint8]:
        """The result uint8 [H, W] of a frame that an earlier run finished.

        Raises:
            ResultsError: It is not there any more.
        """
        path = self.folder / self.stems[self._name] / f"{frame.name}.png"
        try:
            return read_indices(path).astype(np.uint8)
        except UnreadableFile as error:
            raise ResultsError(
                f"{path} was finished by an earlier run but cannot be read ({error}); delete "
                f"{self._state_of(self._name)} to track this video from its start"
            ) from error

    def _state_of(self, name: str) -> Path:
        return self.folder / HIDDEN / "resume" / f"{self.stems.get(name, name)}.pt"

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.stems[self._name]}{suffix}"

    # --- boxes --------------------------------------------------------------------------------------------------------
    def _note_boxes(self, ids: NDArray[np.uint8], frame: int) -> None:
        for number in np.flatnonzero(np.bincount(ids.ravel())).tolist():
            if number:
                rows, columns = np.nonzero(ids == number)
                box = [int(side) for side in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
                self._boxes.setdefault(number, []).append((frame, box, len(rows)))

    def _json(self, skipped: Sequence[str]) -> dict[str, Any]:
        objects = {
            str(number): [{"frame": self.frames[frame], "box": box, "area": area} for frame, box, area in found]
            for number, found in sorted(self._boxes.items())
        }
        return {
            "video": self._name,
            "frames": len(self.frames),
            "skipped": list(skipped),
            "box": "xyxy",
            "objects": objects,
        }

    def _mot(self) -> str:
        """Lines of frame (from 1), object, left, top, width, height, confidence, and three unused columns."""
        rows = sorted((frame, number, box) for number, found in self._boxes.items() for frame, box, _ in found)
        return "".join(
            f"{frame + 1},{number},{x1},{y1},{x2 - x1},{y2 - y1},1,-1,-1,-1\n"
            for frame, number, (x1, y1, x2, y2) in rows
        )


def _entry_of(unit: Unit) -> dict[str, Any]:
    files = unit.paths()
    masks = str(Path(files["masks"][0]).parent)
    return {"video": unit.name, "frames": unit.frames, "masks": masks, "boxes": f"{masks}.json"}
