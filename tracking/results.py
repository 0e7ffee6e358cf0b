"""The results of a tracker on disk, written so that an interruption loses nothing that is finished.

    OUT/run.json               what was run; written first, it marks a folder of ours
    OUT/NAME/00000.png         palette PNG of object numbers, one per frame (the layout of DAVIS)
    OUT/NAME.mp4               the video with the objects tinted
    OUT/NAME.json              boxes and areas of every object
    OUT/NAME.txt               the boxes in the format of MOTChallenge, on demand
    OUT/.resume/NAME.pt        where to go on; removed when the video is finished

Every file appears whole or not at all. NAME.json is written last: it says that the video is finished.
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pe_spatial.common.errors import UnreadableFile, UserError
from pe_spatial.common.files import put_in_place, write_json, write_text
from pe_spatial.common.pictures import read_indices, save_image
from pe_spatial.common.tensors import read_tensor_file, write_torch_file
from pe_spatial.tracking.frames import Frame
from pe_spatial.visualization import overlay_masks, palette

RUN_FILE = "run.json"
# seconds between two savings of the tracker's state; a rerun repeats at most this much
SAVE_EVERY = 10.0
# the columns of `boxes` for one object on one frame
_BOX_FIELDS = 6


class ResultsError(UserError, RuntimeError):
    """Results that cannot be written as asked."""


def open_results(folder: Path, run: Mapping[str, Any]) -> None:
    """Prepare a folder for a run; the same run continues in its own folder. A run that left no result does not count.

    Args:
        folder: may exist.
        run: what identifies the run, as JSON holds it.

    Raises:
        ResultsError: the folder holds something else, or the results of another run.
    """
    marker = folder / RUN_FILE
    if marker.is_file() and any(path.is_file() and path != marker for path in folder.rglob("*")):
        found = json.loads(marker.read_text(encoding="utf-8"))
        different = sorted(key for key in {*run, *found} if run.get(key) != found.get(key))
        if different:
            key = different[0]
            raise ResultsError(
                f"{folder} holds the results of another run ({', '.join(different)} differ; {key} was "
                f"{found.get(key)!r}, now {run.get(key)!r}); choose another --output, or delete that folder"
            )
        return
    if folder.exists() and not marker.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ResultsError(f"{folder} exists and is not a folder of this tool's results; choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(marker, run)


class VideoResults:
    """Writes the results of one video; a context manager.

    Args:
        folder: prepared by `open_results`.
        name: of the video.
        rate: frames per second of the overlay video.
        overlay: whether to write one.
        mot: whether to write the boxes in the format of MOTChallenge too.
    """

    def __init__(self, folder: Path, name: str, rate: float, *, overlay: bool = True, mot: bool = False) -> None:
        self.folder, self.name, self.rate = folder, name, rate
        self.overlay, self.mot = overlay, mot
        self.names: list[str] = []
        self.boxes: dict[int, array[float]] = {}
        self._writer: cv2.VideoWriter | None = None
        self._saved = time.monotonic()
        (folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def finished(self) -> bool:
        """Whether an earlier run finished the video."""
        return self._file(".json").is_file()

    def load_state(self) -> dict[str, Any] | None:
        """Return what `save_state` saved, if the video was interrupted."""
        path = self._state_file
        if not path.is_file():
            return None
        return dict(read_tensor_file(path))

    def save_state(self, state: Mapping[str, Any], *, force: bool = False) -> None:
        """Save a tracker's state, unless the last one is younger than `SAVE_EVERY`."""
        if not force and time.monotonic() - self._saved < SAVE_EVERY:
            return
        self._state_file.parent.mkdir(exist_ok=True)
        write_torch_file(dict(state), self._state_file)
        self._saved = time.monotonic()

    def read(self, frame: Frame) -> Tensor:
        """Return the result uint8 [H, W] of a frame that an earlier run finished.

        Raises:
            ResultsError: it is not there any more.
        """
        path = self._png(frame)
        try:
            return torch.from_numpy(read_indices(path).astype(np.uint8))
        except UnreadableFile as error:
            raise ResultsError(
                f"{error}, though an earlier run finished it; delete {self._state_file} to "
                "track this video from its start"
            ) from error

    def write(self, frame: Frame, ids: Tensor) -> None:
        """Write the result uint8 [H, W] of the next frame.

        Raises:
            ResultsError: the overlay video cannot be written.
        """
        save_image(self._png(frame), ids.cpu().numpy(), colors=palette(256))
        self.note(frame, ids)

    def note(self, frame: Frame, ids: Tensor) -> None:
        """Enter a frame that is on disk into the overlay and the boxes."""
        ids = ids.cpu()
        self._note_boxes(ids.numpy(), len(self.names))
        self.names.append(frame.name)
        if self.overlay:
            self._show(frame.image, ids)

    def finish(self, skipped: list[str]) -> None:
        """Close the overlay video, write the boxes, and forget where to go on."""
        self.close()
        if self._writer is not None:
            put_in_place(self._partial_video, self._file(".mp4"))
        if self.mot:
            write_text(self._file(".txt"), self._mot())
        write_json(self._file(".json"), self._json(skipped))
        self._state_file.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop writing the overlay video."""
        if self._writer is not None:
            self._writer.release()

    def __enter__(self) -> VideoResults:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._partial_video.unlink(missing_ok=True)

    def _note_boxes(self, ids: NDArray[np.uint8], frame: int) -> None:
        for number in np.flatnonzero(np.bincount(ids.ravel())):
            if number:
                rows, columns = np.nonzero(ids == number)
                box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                self.boxes.setdefault(int(number), array("d")).extend((frame, *map(float, box), len(rows)))

    def _show(self, image: Tensor, ids: Tensor) -> None:
        picture = overlay_masks(image.cpu(), ids) if bool(ids.any()) else image.cpu()
        height, width = picture.shape[-2:]
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._partial_video), codec, self.rate, (width, height))
            if not self._writer.isOpened():
                raise ResultsError(f"the video {self._file('.mp4')} cannot be written; check the disk, or --no-overlay")
        self._writer.write(np.ascontiguousarray(picture.flip(0).permute(1, 2, 0).numpy()))  # OpenCV wants BGR

    def _rows(self, number: int) -> NDArray[np.float64]:
        """Rows (frame, x1, y1, x2, y2, area) of an object."""
        return np.frombuffer(self.boxes[number], dtype=np.float64).reshape(-1, _BOX_FIELDS)

    def _json(self, skipped: list[str]) -> dict[str, Any]:
        objects = {
            str(number): [
                {"frame": self.names[int(row[0])], "box": [int(value) for value in row[1:5]], "area": int(row[5])}
                for row in self._rows(number)
            ]
            for number in sorted(self.boxes)
        }
        return {"video": self.name, "frames": len(self.names), "skipped": skipped, "box": "xyxy", "objects": objects}

    def _mot(self) -> str:
        """Lines of frame (from 1), object, left, top, width, height, confidence, and three unused columns."""
        rows = sorted((int(row[0]), number, row) for number in self.boxes for row in self._rows(number))
        lines = [
            f"{frame + 1},{number},{x1:g},{y1:g},{x2 - x1:g},{y2 - y1:g},1,-1,-1,-1"
            for frame, number, (_, x1, y1, x2, y2, _) in rows
        ]
        return "".join(line + "\n" for line in lines)

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.name}{suffix}"

    def _png(self, frame: Frame) -> Path:
        return self.folder / self.name / f"{frame.name}.png"

    @property
    def _state_file(self) -> Path:
        return self.folder / ".resume" / f"{self.name}.pt"

    @property
    def _partial_video(self) -> Path:
        return self.folder / f".{self.name}.partial.mp4"
