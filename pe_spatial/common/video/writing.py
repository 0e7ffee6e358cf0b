"""Video files that browsers play, whole or absent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace
from torch import Tensor
from torch.nn.functional import pad

from pe_spatial.common.errors import UserError
from pe_spatial.common.files import full_disk, is_full_disk, put_in_place, temporary_path
from pe_spatial.common.video.reading import DEFAULT_RATE

# a whole number of ticks for milliseconds and for all usual frame rates, those over 1.001 included
TIME_BASE = Fraction(1, 720_000)
# without B-frames the first frame is shown at time 0 by every player; x264's macroblock tree reads memory that it never
# wrote, so that what others have left there decides on the bits of the file
_X264 = {"crf": "18", "preset": "veryfast", "bf": "0", "mbtree": "0"}
_MOST_TICKS = 2**31 - 1  # of the duration of a frame: 50 minutes
_LATEST = 1e12  # seconds; a file counts no further
_BT709 = 1  # how H.264 numbers this color space, its primaries and its transfer function


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
        self._temporary = temporary_path(self.path)
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
                f"{self.path}: a frame of {tuple(image.shape[1:])} (H, W) in a video of {(height, width)}; all frames "
                "of a video must have one size; resize the frame"
            )
        if right or below:
            image = pad(image[None].float(), (0, right, 0, below), mode="replicate")[0].to(torch.uint8)
        pixels = np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        moment = self._count / self._rate if time is None or not math.isfinite(time) else min(time, _LATEST)
        tick = min(round(moment / TIME_BASE), self._next + _MOST_TICKS - 1)
        frame.pts = max(tick, self._next)  # times of damaged sources may stand still
        frame.time_base = TIME_BASE
        seconds = duration if duration and math.isfinite(duration) else 1 / self._rate
        self._durations[frame.pts] = min(max(round(seconds / TIME_BASE), 1), _MOST_TICKS)
        self._next = frame.pts + 1
        self._count += 1
        with self._removing():
            self._encode(frame)

    def close(self) -> None:
        """Finish the file and put it in place.

        Raises:
            OSError: The file cannot be written; nothing is left.
        """
        if self._container is None:
            return
        with self._removing():
            self._encode(None)
            self._container.close()
            put_in_place(self._temporary, self.path)
        self._container = None

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
        rate = max(Fraction(self._rate).limit_denominator(1001), Fraction(1, 1001))
        self._stream = self._container.add_stream("libx264", rate=rate, options=_X264)
        codec = self._stream.codec_context
        self._stream.height, self._stream.width = (side + side % 2 for side in image.shape[1:])
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = codec.time_base = TIME_BASE
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = ColorRange.MPEG

    @contextmanager
    def _removing(self) -> Iterator[None]:
        """Leave nothing after an error."""
        try:
            yield
        except BaseException as error:
            self.discard()
            if isinstance(error, OSError) and is_full_disk(error):
                raise full_disk(self.path) from error
            raise

    def _encode(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._durations.pop(packet.pts)  # the file keeps that of the last one
            self._container.mux(packet)
