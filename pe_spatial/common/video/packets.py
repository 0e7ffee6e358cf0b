"""The packets of a video file, counted against what the file announces."""

from collections.abc import Iterator
from os import SEEK_END
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from pe_spatial.common.reading import open_regular

# AVI files and the headers of Matroska announce lengths that may be a little too large; more missing frames are damage
TOLERATED_TAIL = 2
_EVEN = 0.8  # share of equal steps from which on the times of a video are even
_TRAILER = 64  # bytes at the end of a GIF, one of which closes it
_FRAME_BYTES = 8  # of a file for every frame that it announces, at least, for one that is left out has its entry too


class Packets:
    """The packets of a stream that hold a frame, then None to flush the decoder; counted as they come.

    Attributes:
        shown: Number of those that show a frame.
        tolerance: How many frames the container may announce too many.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        # MP4 lists its packets; those that an edit of the video cut off are marked or left out
        self._index = stream.index_entries if "mp4" in container.format.name and stream.frames else ()
        self._seen, self._end, self._broken = 0, 0.0, False
        self._spans = False  # whether packets say for how long they are shown
        self._moments: list[float] = []  # the first and the last time of a packet, in seconds
        self.shown = 0
        self.tolerance = 0 if self._index else TOLERATED_TAIL
        self._most = container.size // _FRAME_BYTES
        self._leading: list[int] = []  # times of packets before the first frame, in ticks
        self._times: list[float] = []  # of the frames, in seconds

    @property
    def count(self) -> int | None:
        """Number of frames, where the file has an index; one that it cannot hold is not believed."""
        count = sum(not entry.is_discard for entry in self._index) if self._index else self._stream.frames
        return count if 0 < count <= self._most else None

    def __iter__(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux():
                if packet.pts is not None:
                    self._end = max(self._end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream_index != self._stream.index or packet.dts is packet.pts is None and not packet.size:
                    continue
                self._seen += 1
                self._spans |= bool(packet.duration)
                if packet.pts is not None:
                    moment = float(packet.pts * packet.time_base)
                    self._moments = [min([moment, *self._moments]), max([moment, *self._moments])]
                if packet.size:
                    self.shown += not packet.is_discard and not _is_hidden(packet)
                    if not self._times and packet.pts is not None and not packet.is_discard:
                        self._leading.append(packet.pts)
                    yield packet
        except FFmpegError:
            self._broken = not self._stream.frames  # else `missing` tells what the end of the file should have held
        self._broken |= "gif" in self._container.format.name and not _is_closed_gif(self._container.name)
        yield None

    def show(self, ticks: int | None, time: float) -> None:
        """Take notice of a frame that a packet has completed: when it is shown, in ticks and in seconds.

        What would be shown before the first frame is no loss: a video that was cut without encoding may begin with
        frames that refer to others before the cut.
        """
        if not self._times and ticks is not None:
            self.shown -= sum(earlier < ticks for earlier in self._leading)
        self._times.append(time)

    def doubt(self, number: int, fewer: int) -> str:
        """What may be wrong with a video that seems to be whole; empty if nothing is.

        Args:
            number: Of frames, with those that could not be decoded, of which more was said.
            fewer: Frames than announced, as many as are tolerated.
        """
        count = len(self._times)
        if number > count:
            return ""
        if fewer > 0 and self._stream.frames:
            return f"{count} of {count + fewer} frames are there"
        steps = np.diff(self._times)[1:-1]  # MPEG's first and last frames may be a step too far
        usual = float(np.median(steps)) if len(steps) else 0.0
        gaps = int((steps > 1.5 * usual).sum())
        # an index lists what there is, and uneven times are meant
        if not gaps or self._index or (np.abs(steps - usual) < 0.2 * usual).mean() < _EVEN:
            return ""
        lost = round(float((steps[steps > 1.5 * usual] / usual - 1).sum()))
        return (
            f"{count} frames, and gaps in their even times ({gaps}), where about {lost} more would be: the camera left "
            "them out, or the file is damaged"
        )

    def missing(self, rate: float) -> int:
        """Frames that the container announces but does not hold, as far as its format tells and its size allows."""
        if announced := len(self._index) or self._stream.frames:
            missing = announced - self._seen
        elif _announces_duration(self._container) and self._container.duration:
            missing = round((self._container.duration / av.time_base - self._end - self._last_span()) * rate)
        else:
            missing = 0
        if self._broken:
            missing, self.tolerance = max(missing, 1), 0
        return min(max(missing, 0), self._most)

    def _last_span(self) -> float:
        """For how many seconds the last frame is shown after `_end`, where packets do not say it: as long as others."""
        if self._spans or not self._moments:
            return 0.0
        first, last = self._moments
        whole = self._container.duration / av.time_base
        return (last - first) / (self._seen - 1) if self._seen > 1 else max(whole - self._end, 0.0)


def _is_hidden(packet: Any) -> bool:
    """Whether a packet only holds a reference for others, as VP8 has them."""
    return packet.stream.codec_context.name.startswith(("vp8", "libvpx")) and not bytes(packet)[0] & 0x10


def counts_from_zero(container: Any) -> bool:
    """Whether times in a file count from the start of the video, as in MP4 and Matroska, and not from anywhere."""
    return "mp4" in container.format.name or "matroska" in container.format.name


def _announces_duration(container: Any) -> bool:
    """Whether the head of the file says how long it is; others are measured by what is there."""
    return counts_from_zero(container) or container.format.name in ("flv", "rm", "mxf")


def _is_closed_gif(name: str) -> bool:
    """Whether a GIF has its last byte; a little may follow it."""
    with open_regular(name.removeprefix("file:")) as file:
        size = file.seek(0, SEEK_END)
        file.seek(max(size - _TRAILER, 0))
        return b"\x3b" in file.read()
