"""Frames of video files: upright, with their true times, and counted against what the file announces."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.stream import Disposition
from torch import Tensor

from pe_spatial.common.errors import PictureError, UnreadableFile
from pe_spatial.common.memory import check_pixels
from pe_spatial.common.reading import require_regular
from pe_spatial.common.video.packets import Packets, counts_from_zero

DEFAULT_RATE = 25.0  # frames per second where a source does not say
# what is read: files of one stream after the other; not the lists that name other files, or themselves, nor pictures
_FORMATS = (
    "3g2,3gp,asf,av1,avi,dv,f4v,flv,gif,h261,h263,h264,hevc,ivf,m4a,m4v,matroska,mj2,mjpeg,mov,mp4,mpeg,mpegts,"
    "mpegvideo,mxf,nut,obu,ogg,ogv,rm,swf,vc1,vvc,webm,wtv,yuv4mpegpipe"
)
_SLOWEST = 0.001  # frames per second that are believed


@dataclass(frozen=True)
class VideoFrame:
    """A frame of a video.

    Attributes:
        number: Its place in the video, from 0; frames that cannot be decoded count.
        time: Seconds from the start of the video at which it is shown.
        image: uint8 [3, H, W] RGB, upright.
        duration: Seconds for which it is shown; None where the file does not say.
    """

    number: int
    time: float
    image: Tensor
    duration: float | None = None


class UnreadableFrame(UnreadableFile):
    """Frames of a video that cannot be decoded.

    Attributes:
        number: Place of the first one in the video.
        time: About when it would be shown, in seconds.
        lost: How many follow each other.
    """

    def __init__(self, message: str, number: int, time: float, lost: int) -> None:
        super().__init__(message)
        self.number, self.time, self.lost = number, time, lost


class VideoReader:
    """The frames of a video file. Every iteration starts at the first one; `with` closes those that were left early.

    Args:
        path: A file in any format that FFmpeg reads.

    Attributes:
        path: The file.
        frame_rate: Frames per second on average; 25 where the file does not say.
        count: Number of frames where the file has an index, else None (`count_frames` counts them).
        size: (H, W) of the upright frames; a frame of another size cannot be read.

    Raises:
        UnreadableFile: The file is missing, is no video, or has no frame that can be decoded.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._containers: list[Any] = []
        self.size: tuple[int, int] | None = None
        with _open(self.path) as (container, stream):
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            self.frame_rate = rate if _SLOWEST <= rate < 1000 else DEFAULT_RATE
            self.count = Packets(container, stream).count
        with self:
            first = next((item for item in self.read() if isinstance(item, VideoFrame)), None)
        if first is None:
            announced = f"0 of {self.count} frames" if self.count else "no frame"
            raise UnreadableFile(
                f"{path} has {announced} that can be decoded; check that it is a complete, undamaged video"
            )
        self.size = (first.image.shape[1], first.image.shape[2])

    def __iter__(self) -> Iterator[VideoFrame]:
        """Decode the frames in order.

        Raises:
            UnreadableFrame: A frame cannot be decoded, or the file ends early; the frames before it came first.
        """
        for item in self.read():
            if isinstance(item, UnreadableFrame):
                raise item
            yield item

    def read(self) -> Iterator[VideoFrame | UnreadableFrame]:
        """Decode the frames in order, with an error in the place of those that cannot be decoded."""
        with _open(self.path) as (container, stream):
            self._containers.append(container)
            packets = Packets(container, stream)
            # MP4 and Matroska count from the start of the video, the others from anywhere
            origin = 0.0 if counts_from_zero(container) else None
            failed: list[int] = []  # times of packets, in ticks; a heap
            # AVI has packets in the order of decoding with times in that of showing; a heap puts B-frames right
            times: list[int] | None = [] if "avi" in container.format.name else None
            number = fields = 0
            size = None
            for packet in packets:
                for frame in _decode(stream, packet, failed, times):
                    ticks = heappop(times) if times else frame.pts
                    moment = number / self.frame_rate if ticks is None else _seconds(ticks, stream)
                    origin = moment if origin is None else origin
                    time = moment - origin
                    packets.show(ticks, time)
                    while ticks is not None and failed and failed[0] < ticks:
                        yield self._unreadable(number, _seconds(heappop(failed), stream) - origin)
                        number += 1
                    size = size or (frame.height, frame.width)
                    if frame.is_corrupt:
                        yield self._unreadable(number, time)
                    elif (frame.height, frame.width) != size:
                        yield self._resized(number, time, frame, size)
                    else:
                        yield VideoFrame(number, time, _picture(frame), _seconds(frame.duration, stream) or None)
                    number += 1
                    fields += frame.interlaced_frame
            missing = packets.missing(self.frame_rate)
            undecoded = 0 if fields else packets.shown - number  # two packets may be the fields of one frame
            if failed or missing > packets.tolerance or undecoded > packets.tolerance:
                lost = max(missing + undecoded, len(failed), 1)
                yield self._unreadable(number, number / self.frame_rate, lost)
            elif doubt := packets.doubt(number, max(missing, undecoded)):
                warnings.warn(f"{self.path}: {doubt}", stacklevel=2)

    def whole(self) -> Iterator[VideoFrame]:
        """Decode the frames in order; of a damaged video, those before the damage.

        Raises:
            UnreadableFrame: As of `__iter__`, with how many frames of the whole video can be decoded.
        """
        good = 0
        items = self.read()
        for item in items:
            if isinstance(item, UnreadableFrame):
                lost = item.lost
                for later in items:
                    good += isinstance(later, VideoFrame)
                    lost += later.lost if isinstance(later, UnreadableFrame) else 0
                text = f"{item}; {good} of {good + lost} frames can be used"
                raise UnreadableFrame(text, item.number, item.time, item.lost)
            good += 1
            yield item

    def _unreadable(self, number: int, time: float, lost: int = 1) -> UnreadableFrame:
        of = "" if self.count is None else f" of {self.count}"
        more = f" and {lost - 1} after it" if lost > 1 else ""
        return UnreadableFrame(
            f"{self.path}: frame {number}{of}{more} ({time:.2f} s) cannot be decoded; the file is damaged or cut "
            "short: copy it again, or repair it",
            number,
            time,
            lost,
        )

    def _resized(self, number: int, time: float, frame: Any, size: tuple[int, int]) -> UnreadableFrame:
        return UnreadableFrame(
            f"{self.path}: frame {number} ({time:.2f} s) is {frame.height} x {frame.width} (H x W) and those before it "
            f"are {size[0]} x {size[1]}; encode the video again with one size",
            number,
            time,
            1,
        )

    def close(self) -> None:
        """End the iterations that are under way."""
        while self._containers:
            self._containers.pop().close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def count_frames(path: str | Path) -> int:
    """Count the frames of a video file exactly, without decoding them.

    Raises:
        UnreadableFile: The file is missing or no video.
    """
    return measure_frames(path)[0]


def measure_frames(path: str | Path) -> tuple[int, float | None]:
    """How many frames a video file has and how many a second on average, by their times; none is decoded.

    The rate is that of the whole video, whatever its head says; None where it has one frame or no times.

    Raises:
        UnreadableFile: The file is missing or no video.
    """
    with _open(Path(path)) as (container, stream):
        packets = Packets(container, stream)
        timed = (packet for packet in packets if packet is not None and packet.pts is not None)
        spans = [(packet.pts, packet.duration or 0) for packet in timed if not packet.is_discard]
        count, tick = packets.shown, float(stream.time_base)
    if len(spans) < 2 or max(spans)[0] == min(spans)[0]:
        return count, None
    last, duration = max(spans)
    steps = len(spans) if duration else len(spans) - 1  # how long the last frame is shown may not be said
    return count, steps / ((last + duration - min(spans)[0]) * tick)


def is_video(path: str | Path) -> bool:
    """Whether the content of a file is video, whatever its name says."""
    try:
        with _open(Path(path)):
            return True
    except UnreadableFile:
        return False


@contextmanager
def _open(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream, which is not the cover of an album."""
    remedy = "check that it is a whole video, or convert it to MP4"
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    try:
        require_regular(path)
        # with the protocol, for a file name may hold a colon; and nothing that the file names is fetched
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except UnreadableFile:
        raise
    except (FFmpegError, OSError, ValueError) as error:  # ValueError: no name that a file can have
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", "") or error
        raise UnreadableFile(f"video {path} cannot be opened ({reason}); {remedy}") from error
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise UnreadableFile(f"video {path} cannot be opened (it has no video stream); {remedy}")
        codec = streams[0].codec_context
        if codec is None:
            raise UnreadableFile(f"video {path} cannot be opened (there is no decoder for its stream); {remedy}")
        try:
            check_pixels(codec.height, codec.width)
        except PictureError as error:
            raise UnreadableFile(f"video {path} cannot be read: frames of {error}") from error
        streams[0].thread_type = "SLICE"  # threads over frames would report errors at later packets
        yield container, streams[0]


def _decode(stream: Any, packet: Any, failed: list[int], times: list[int] | None) -> list[Any]:
    """The frames that a packet completes; notes when one that cannot be decoded is shown, and in `times` the others."""
    try:
        if packet is None or not packet.is_corrupt:
            if times is not None and packet is not None and packet.pts is not None:
                heappush(times, packet.pts)
            frames: list[Any] = stream.codec_context.decode(packet)
            return frames
    except FFmpegError:
        if times and packet is not None and packet.pts in times:
            times.remove(packet.pts)
            heapify(times)
    if packet is not None and not packet.is_discard:
        heappush(failed, packet.pts if packet.pts is not None else packet.dts or 0)
    return []


def _seconds(ticks: int | None, stream: Any) -> float:
    return float((ticks or 0) * stream.time_base)


def _picture(frame: Any) -> Tensor:
    """RGB, turned and mirrored by the matrix of the file, whose rows say where x and y go."""
    image = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        x_to_x, x_to_y, _, y_to_x, y_to_y = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
        if abs(x_to_y) > abs(x_to_x):
            image = image.transpose(1, 2)
            x_to_x, y_to_y = y_to_x, x_to_y
        image = image.flip([axis for axis, sign in ((1, y_to_y), (2, x_to_x)) if sign < 0])
    return image.contiguous()
