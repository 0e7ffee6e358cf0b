"""How PLM sees a video: at most 32 whole frames, as `core/transforms/video_transform.py` of `perception_models`."""

import warnings
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from pe_spatial.common.errors import require_positive
from pe_spatial.common.video import VideoReader, measure_frames

MAX_FRAMES = 32  # of the released models


def choose_frames(count: int, frame_rate: float, max_frames: int = MAX_FRAMES) -> list[int]:
    """Which frames of a video are taken: the official rule.

    One frame a second; if these are too many, `max_frames` of them, evenly spaced; if they are too few, `max_frames`
    of all frames, evenly spaced, or all frames where the video has no more. Halves are rounded to even numbers.

    Args:
        count: Frames of the video.
        frame_rate: Frames per second.
        max_frames: At most so many are taken.

    Returns:
        Numbers from 0, rising. Of a video of one frame these are [0, 1], as upstream has it, though 1 does not exist;
        `read_frames` takes the one that does.

    Raises:
        OptionError: A count below 1.
    """
    require_positive(count=count, max_frames=max_frames)
    last = max(count - 1, 1)
    # below half a frame a second, where upstream's step is zero and fails, every frame is one of its second
    each_second = list(range(0, last + 1, max(round(frame_rate), 1)))
    if len(each_second) > max_frames:
        return [each_second[i] for i in _evenly(len(each_second), max_frames)]
    if len(each_second) < max_frames:
        return _evenly(last + 1, min(max_frames, last + 1))
    return each_second


def _evenly(count: int, number: int) -> list[int]:
    step = (count - 1) / (number - 1) if number > 1 else 0
    return [round(i * step) for i in range(number)]


def read_frames(path: str | Path, side: int, max_frames: int = MAX_FRAMES) -> Tensor:
    """The frames of a video that PLM sees, squashed to squares; only these are held in memory.

    The video is decoded from its start to its end, where it shows whether the file is whole.

    Args:
        path: Of a video file.
        side: S, in pixels.
        max_frames: See `choose_frames`.

    Returns:
        uint8 RGB [T, 3, S, S].

    Raises:
        UnreadableFile: The file is missing or no video, has no frame that can be decoded, or is damaged or cut.
        OptionError: A number below 1.
    """
    require_positive(side=side, max_frames=max_frames)
    with VideoReader(path) as reader:
        count, rate = measure_frames(path)  # as the official decoder; what a header announces may be wrong
        chosen = choose_frames(max(count, 1), rate or reader.frame_rate, max_frames)
        wanted = [number for number in chosen if number < max(count, 1)]
        frames = {}
        for frame in reader:
            if frame.number in wanted:
                frames[frame.number] = resize_frames(frame.image[None], side)
    if missing := [number for number in wanted if number not in frames]:  # two packets may be the fields of one frame
        text = f"{path}: {len(missing)} of {len(wanted)} frames do not exist, from number {missing[0]} on"
        warnings.warn(f"{text}; the others are used", stacklevel=2)
    return torch.cat(list(frames.values()))


def resize_frames(frames: Tensor, side: int) -> Tensor:
    """Squash uint8 frames [T, 3, H, W] to [T, 3, side, side]: bicubic with antialiasing, on tensors as upstream."""
    resized: Tensor = F.resize(frames, [side, side], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return resized
