"""The one door to video: frames with their true times and upright, counted, and H.264 files that browsers play."""

from __future__ import annotations

import os
import time as clock
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace
from torch import Tensor
from torch.nn.functional import pad

from pe_spatial.common.errors import UnreadableFile, UserError

DEFAULT_RATE = 25.0  # frames per second where a source does not say
# a whole number of ticks for milliseconds and for all usual frame rates, those over 1.001 included
TIME_BASE = Fraction(1, 720_000)
# AVI files and the headers of Matroska announce lengths that may be a little too large; more missing frames are damage
_TOLERATED_TAIL = 2
# without B-frames the first frame is shown at time 0 by every player
_X264 = {"crf": "18", "preset": "veryfast", "bf": "0"}
_BT709 = 1  # how H.264 numbers this color space, its primaries and its transfer function
# these demuxers take pictures and text for video
_NO_VIDEO = ("_pipe", "image2", "tty")


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


# --- reading ----------------------------------------------------------------------------------------------------------
class VideoReader:
    """The frames of a video file. Every iteration starts at the first one; `with` closes those that were left early.

    Args:
        path: A file in any format that FFmpeg reads.

    Attributes:
        path: The file.
        frame_rate: Frames per second on average; 25 where the file does not say.
        count: Number of frames where the file has an index, else None (`count_frames` counts them).
        size: (H, W) of the upright frames.

    Raises:
        UnreadableFile: The file is missing, is no video, or has no frame that can be decoded.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._containers: list[Any] = []
        with _open(self.path) as (container, stream):
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            self.frame_rate = rate if 0 < rate < 1000 else DEFAULT_RATE
            self.count = _indexed(container, stream)
        with self:
            first = next((item for item in self.read() if isinstance(item, VideoFrame)), None)
        if first is None:
            raise UnreadableFile(f"{path} holds no frame that can be decoded; check that it is a video")
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
            packets = _Packets(container, stream)
            # MP4 and Matroska count from the start of the video, the others from anywhere
            origin = 0.0 if _counts_from_zero(container) else None
            failed: list[int] = []  # times of packets, in ticks
            number = fields = 0
            for packet in packets:
                for frame in _decode(stream, packet, failed):
                    origin = (frame.time or 0.0) if origin is None else origin
                    time = number / self.frame_rate if frame.time is None else frame.time - origin
                    while frame.pts is not None and failed and min(failed) < frame.pts:
                        yield self._unreadable(number, _seconds(min(failed), stream) - origin)
                        failed.remove(min(failed))
                        number += 1
                    if frame.is_corrupt:
                        yield self._unreadable(number, time)
                    else:
                        yield VideoFrame(number, time, _picture(frame), _seconds(frame.duration, stream) or None)
                    number += 1
                    fields += frame.interlaced_frame
            missing, undecoded = packets.missing(self.frame_rate), packets.shown - number
            # two packets may be the fields of one frame
            if failed or missing or (undecoded > _TOLERATED_TAIL and not fields):
                lost = max(missing + undecoded, len(failed), 1)
                yield self._unreadable(number, number / self.frame_rate, lost)

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

    def close(self) -> None:
        """End the iterations that are under way."""
        while self._containers:
            self._containers.pop().close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_video(path: str | Path) -> VideoReader:
    """Open a video file for reading; see `VideoReader`."""
    return VideoReader(path)


def count_frames(path: str | Path) -> int:
    """Count the frames of a video file exactly, without decoding them.

    Raises:
        UnreadableFile: The file is missing or no video.
    """
    with _open(Path(path)) as (container, stream):
        packets = _Packets(container, stream)
        for _ in packets:
            pass
        return packets.shown


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
    try:
        # with the protocol, for a file name may hold a colon; and nothing that the file names is fetched
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (FFmpegError, OSError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise UnreadableFile(f"video {path} cannot be opened ({reason}); {remedy}") from error
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams or container.format.name.endswith(_NO_VIDEO):
            raise UnreadableFile(f"video {path} cannot be opened (it has no video stream); {remedy}")
        streams[0].thread_type = "SLICE"  # threads over frames would report errors at later packets
        yield container, streams[0]


class _Packets:
    """The packets of a stream that hold a frame, then None to flush the decoder; counted as they come.

    Attributes:
        shown: Number of those that show a frame.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self._seen, self._end = 0, 0.0
        self.shown = 0

    def __iter__(self) -> Iterator[Any]:
        with suppress(FFmpegError):  # `missing` tells what the end of the file should have held
            for packet in self._container.demux():
                if packet.pts is not None:
                    self._end = max(self._end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream_index != self._stream.index or packet.dts is packet.pts is None and not packet.size:
                    continue
                self._seen += 1
                if packet.size:
                    self.shown += not packet.is_discard and not _is_hidden(packet)
                    yield packet
        yield None

    def missing(self, rate: float) -> int:
        """Frames that the container announces but does not hold, within what its format lets one know."""
        announced = len(self._stream.index_entries) if _is_indexed(self._container, self._stream) else 0
        if announced or self._stream.frames:
            lost = (announced or self._stream.frames) - self._seen
        elif _counts_from_zero(self._container) and self._container.duration:
            lost = round((self._container.duration / av.time_base - self._end) * rate)
        else:
            lost = 0
        return lost if lost > (0 if announced else _TOLERATED_TAIL) else 0


def _decode(stream: Any, packet: Any, failed: list[int]) -> list[Any]:
    """The frames that a packet completes; notes the time of one that cannot be decoded."""
    try:
        if packet is None or not packet.is_corrupt:
            frames: list[Any] = stream.codec_context.decode(packet)
            return frames
    except FFmpegError:
        pass
    if packet is not None and not packet.is_discard:
        failed.append(packet.pts if packet.pts is not None else packet.dts or 0)
    return []


def _is_hidden(packet: Any) -> bool:
    """Whether a packet only holds a reference for others, as VP8 has them."""
    return packet.stream.codec_context.name.startswith(("vp8", "libvpx")) and not bytes(packet)[0] & 0x10


def _counts_from_zero(container: Any) -> bool:
    return "mp4" in container.format.name or "matroska" in container.format.name


def _is_indexed(container: Any, stream: Any) -> bool:
    """Whether the file lists its packets, with those that an edit of the video cut off marked or left out."""
    return "mp4" in container.format.name and bool(stream.frames)


def _indexed(container: Any, stream: Any) -> int | None:
    if _is_indexed(container, stream):
        return sum(not entry.is_discard for entry in stream.index_entries)
    return stream.frames or None


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


# --- cameras ----------------------------------------------------------------------------------------------------------
class Camera:
    """The frames of a camera, without end; their times count from the first one.

    Args:
        number: As the system counts its cameras.

    Raises:
        UnreadableFile: There is no such camera, or another program has it.
    """

    def __init__(self, number: int) -> None:
        import cv2

        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise UnreadableFile(f"camera {number} cannot be opened; check the camera, or record a video")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frame_rate = rate if 0 < rate < 1000 else DEFAULT_RATE

    def __iter__(self) -> Iterator[VideoFrame]:
        """Wait for one frame after the other; ends when the camera does."""
        number, start = 0, clock.monotonic()
        try:
            while True:
                success, picture = self._capture.read()
                if not success:
                    return
                image = torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)  # OpenCV has BGR
                start = clock.monotonic() if number == 0 else start
                yield VideoFrame(number, clock.monotonic() - start, image)
                number += 1
        finally:
            self._capture.release()


# --- writing ----------------------------------------------------------------------------------------------------------
class VideoWriter:
    """Writes an MP4 file with H.264 that browsers play; it is whole or absent.

    Odd sides become even by repeating the last row or column. `with` puts the file in place at its end, or removes it
    where an error ends the block. A video of no frames leaves no file.

    Args:
        path: The file; its folder is created.
        rate: Frames per second of frames that come without a time.
    """

    def __init__(self, path: str | Path, rate: float = DEFAULT_RATE) -> None:
        self.path = Path(path)
        self._rate = rate
        self._temporary = self.path.with_name(f".{self.path.name[:100]}.{os.getpid()}.partial")
        self._container: Any = None
        self._stream: Any = None
        self._next = 0  # tick that no earlier frame has
        self._durations: dict[int, int] = {}  # of frames in the encoder
        self._count = 0

    def write(self, image: Tensor, time: float | None = None, duration: float | None = None) -> None:
        """Add a frame.

        Args:
            image: uint8 [3, H, W] RGB; H and W are those of the first frame.
            time: Seconds from the start of the video, more than that of the frame before; None goes on at the rate.
            duration: Seconds for which the frame is shown if it is the last one; None is one step of the rate.

        Raises:
            UserError: The frame has another size.
            OSError: The file cannot be written.
        """
        if self._stream is None:
            self._start(image)
        height, width = self._stream.height, self._stream.width
        right, below = width - image.shape[2], height - image.shape[1]
        if not (0 <= right <= 1 and 0 <= below <= 1):
            raise UserError(
                f"{self.path}: a frame of {tuple(image.shape[1:])} (H, W) in a video of {(height, width)}; a video has "
                "one size: resize the frame"
            )
        if right or below:
            image = pad(image[None].float(), (0, right, 0, below), mode="replicate")[0].to(torch.uint8)
        pixels = np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        moment = self._count / self._rate if time is None else time
        frame.pts = max(round(moment / TIME_BASE), self._next)  # times of damaged sources may stand still
        frame.time_base = TIME_BASE
        self._durations[frame.pts] = max(round((duration or 1 / self._rate) / TIME_BASE), 1)
        self._next = frame.pts + 1
        self._count += 1
        self._encode(frame)

    def close(self) -> None:
        """Finish the file and put it in place.

        Raises:
            OSError: The file cannot be written; nothing is left.
        """
        if self._container is None:
            return
        try:
            self._encode(None)
            self._container.close()
        except BaseException:
            self.discard()
            raise
        self._container = None
        self._temporary.replace(self.path)

    def discard(self) -> None:
        """Remove what was written."""
        if self._container is not None:
            with suppress(FFmpegError):
                self._container.close()
            self._container = None
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _start(self, image: Tensor) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(f"file:{self._temporary}", "w", format="mp4", options={"movflags": "+faststart"})
        rate = Fraction(self._rate).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate, options=_X264)
        codec = self._stream.codec_context
        self._stream.height, self._stream.width = (side + side % 2 for side in image.shape[1:])
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = codec.time_base = TIME_BASE
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = ColorRange.MPEG

    def _encode(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._durations.pop(packet.pts)  # the file keeps that of the last one
            self._container.mux(packet)
