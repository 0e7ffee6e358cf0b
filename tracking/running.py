"""A tracker, a video and the folder of its results: from the first frame or from where an earlier run stopped."""

import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pe_spatial.common.errors import OptionError, UserError, few
from pe_spatial.common.names import short_name
from pe_spatial.common.reading import read_json
from pe_spatial.tracking.frames import Frame, Frames, open_frames
from pe_spatial.tracking.masks import read_mask
from pe_spatial.tracking.metrics import VideoScore, open_score, score_folder
from pe_spatial.tracking.model import VideoTracker
from pe_spatial.tracking.prompts import Boxes, Points
from pe_spatial.tracking.results import TrackingWriter

Given = Callable[[Frame], Tensor | None]


class Video(Protocol):
    """What is to be tracked: frames, the masks that are given with some of them, and what judges the result.

    Attributes:
        name: In the results.
        path: A file or folder that changes when the video does.
        identity: What tells it from another video with other prompts, as JSON.
        prompted: Numbers of the frames with which masks are given.
    """

    name: str
    path: Path
    identity: Mapping[str, Any] = {}
    prompted: Collection[int] = ()

    def open(self, skip_unreadable: bool, limit: int | None) -> Frames:
        """The frames, or the first `limit` of them."""

    def masks(self, tracker: VideoTracker) -> Given:
        """What tells the mask int64 [H, W] that is given with a frame, or None."""

    def observe(self, frame: Frame, ids: Tensor) -> None:
        """Take notice of the result uint8 [H, W] of a frame; of an earlier run too."""
        return

    def scores(self, output: Path) -> list[dict[str, Any]]:
        """J and F of its objects (see `VideoScore.results`); none where nothing judges it.

        Args:
            output: Folder of the results.
        """
        return []


class PromptedVideo(Video):
    """A video of the user's own.

    Args:
        source: See `open_frames`.
        skip_unreadable: As there.
        given: Masks int64 [H, W] by frame.
        boxes: On the first frame, by object.
        points: On the first frame, by object.
    """

    def __init__(
        self, source: str | list[str], skip_unreadable: bool, given: Mapping[int, Tensor], boxes: Boxes, points: Points
    ) -> None:
        self._source = source
        self._frames = open_frames(source, skip_unreadable)
        self._given, self._boxes, self._points = given, boxes, points
        self.name = self._frames.name
        self.path = self._frames.path
        self.prompted = sorted({*given, *((0,) if boxes or points else ())})
        self.identity = {
            "masks": {number: hashlib.sha256(mask.numpy().tobytes()).hexdigest() for number, mask in given.items()},
            "boxes": boxes,
            "points": points,
        }

    def check(self, limit: int | None) -> None:
        """Refuse what cannot come to effect: masks of frames that the first `limit` do not have, or for one object two.

        Raises:
            OptionError: A mask is given with a frame after the last one, masks differ in size, or an object of the
                first mask has a box or a point too.
            UnreadableFile: The video cannot be read.
        """
        sizes = {tuple(mask.shape): number for number, mask in self._given.items()}
        if len(sizes) > 1:
            raise OptionError(
                f"masks of {' and '.join(map(str, sizes))} (H, W) for one video; give masks of the size of the video"
            )
        twice = set(self._given[0].unique().tolist()) & {*self._boxes, *self._points} if 0 in self._given else set()
        if twice:
            raise OptionError(f"object {min(twice)} is in the mask and has a box or a point; give only one of them")
        if last := max(self.prompted, default=0):
            self._frames.limit = limit
            count = self._frames.count_all()
            if count is not None and last >= count:
                of = f"{count} frames" if limit is None else f"{count} frames with --limit {limit}"
                raise OptionError(f"--at {last}: {self.name} has {of}, and they are counted from 0 to {count - 1}")

    def open(self, skip_unreadable: bool, limit: int | None) -> Frames:
        """The frames, or the first `limit` of them."""
        self._frames.limit = limit
        return self._frames

    def masks(self, tracker: VideoTracker) -> Given:
        """Boxes and points become a mask through the tracker's prompter."""

        def given(frame: Frame) -> Tensor | None:
            mask = self._given.get(frame.number)
            return mask if frame.number else tracker.prompt(frame.image, mask, self._boxes, self._points)

        return given


class DatasetVideo(Video):
    """A video of a dataset, scored as it is tracked.

    Args:
        record: See `pe_spatial.tracking.datasets`.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = record
        self._score: VideoScore | None = None
        self.name = record["video"]
        self.path = Path(record["frame_paths"][0])
        self.prompted = sorted(record["prompts"])

    def open(self, skip_unreadable: bool, limit: int | None) -> Frames:
        """All frames."""
        self._score = open_score(self._record)
        return open_frames(self._record["frame_paths"], skip_unreadable)

    def masks(self, tracker: VideoTracker) -> Given:
        """The masks of the dataset's prompts."""
        prompts = {number: read_mask(**given) for number, given in self._record["prompts"].items()}
        return lambda frame: prompts.get(frame.number)

    def observe(self, frame: Frame, ids: Tensor) -> None:
        """Score a frame that is annotated."""
        if self._score is not None:
            self._score.add(frame.number, ids.cpu().numpy(), self._record["annotation_paths"][frame.number])

    def scores(self, output: Path) -> list[dict[str, Any]]:
        """From what was observed, else from the files of another process or an earlier run."""
        if self._score is None:
            place = output / short_name(self.name)
            skipped = read_json(place.with_name(f"{place.name}.json"), {"skipped": list})["skipped"]
            self._score = score_folder(self._record, place, skipped)
        return self._score.results()


def track_video(
    tracker: VideoTracker, video: Video, frames: Frames, writer: TrackingWriter, batch: int, advance: Callable[[], None]
) -> int:
    """Track one video and write its results.

    Args:
        tracker: Whatever it followed before is forgotten.
        video: What is given of it, and what observes the results.
        frames: Of the video.
        writer: Of the output folder.
        batch: Frames per pass of the encoder.
        advance: Called after every frame, also after those of an earlier run.

    Returns:
        The number of frames that were tracked now.

    Raises:
        UserError: No frame, or no object on any frame.
    """
    given = video.masks(tracker)
    tracker.labels.reset()
    writer.begin(video.name, frames.rate)
    iterator = islice(frames, frames.limit)

    left = set(video.prompted)

    def note(frame: Frame, ids: Tensor) -> None:
        left.discard(frame.number)
        video.observe(frame, ids)
        writer.add(frame, ids)
        advance()

    state = writer.load_state()
    if state is not None:  # what an interrupted run has finished
        for frame in islice(iterator, state["frame"]):
            note(frame, torch.from_numpy(writer.read(frame)))
        tracker.labels.restore(dict(state), tracker.device)
    done = len(writer.frames)
    waiting: deque[Frame] = deque()  # frames that the encoder has seen and the tracker has not

    def images() -> Iterator[Tensor]:
        for frame in iterator:
            waiting.append(frame)
            yield frame.image

    try:
        for ids in tracker.track(images(), lambda _: given(waiting[0]), batch):
            note(waiting.popleft(), ids)
            writer.save_state(tracker.labels.state())
        _require_tracks(video.name, writer.frames, tracker.labels.ids)
    except BaseException:
        if len(writer.frames) == tracker.labels.frame > 0:  # not in the midst of a frame
            writer.save_state(tracker.labels.state(), force=True)
        writer.discard_video(video.name)
        raise
    if frames.skipped:
        _tell(video.name, len(writer.frames), frames.skipped, sorted(left))
    writer.finish(frames.skipped)
    return len(writer.frames) - done


def _tell(name: str, tracked: int, skipped: Sequence[str], lost: Sequence[int]) -> None:
    """Warn of frames that are left out, and of those among them with which something is given."""
    given = f"; what is given with frame {few(lost)} is not taken" if lost else ""
    total = tracked + len(skipped)
    warnings.warn(f"{name}: {tracked} of {total} frames are tracked, left out: {few(skipped)}{given}", stacklevel=3)


def _require_tracks(name: str, frames: Sequence[str], ids: Sequence[int]) -> None:
    if not frames:
        raise UserError(f"{name}: no frame of this video can be read; check the input")
    if not ids:
        raise UserError(f"{name} ends before the frame with the first object; check --at")
