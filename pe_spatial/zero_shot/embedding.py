"""`Embedder`: pictures and videos to features of a PE-Core; `stream` feeds it as it feeds a `Predictor`.

Letters: B pictures and videos, F frames of one, D channels of a feature, S side of the prepared pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.backbones.text import PECore
from pe_spatial.backbones.text.core import VIDEO_DEFINITIONS, VideoDefinition, video_feature
from pe_spatial.common.errors import PictureError, UnreadableFile, require_choice, require_positive
from pe_spatial.common.pictures import ValueRule, to_image
from pe_spatial.common.video import VideoReader, count_frames
from pe_spatial.inference.inputs import Channels, Picture, read_picture
from pe_spatial.inference.stream import Source

FRAMES = 8  # of a video, as in the official evaluations


class Embedder:
    """Gives one feature for a picture, or for a video.

    Args:
        model: Any PE-Core.
        batch_size: Pictures and videos at once.
        frames: That a video is judged by.
        definition: How the feature of a video is made of those of its frames; see `PECore.encode_video`.
        max_pixels: Larger images in files are refused; None: those that do not fit into the free memory.

    Raises:
        OptionError: A number below 1, or an unknown definition.
    """

    def __init__(
        self,
        model: PECore,
        batch_size: int = 1,
        frames: int = FRAMES,
        definition: VideoDefinition = "classification",
        max_pixels: int | None = None,
    ) -> None:
        require_positive(batch_size=batch_size, frames=frames)
        require_choice("definition", definition, VIDEO_DEFINITIONS)
        self.model = model
        self.batch_size = batch_size
        self.frames = frames
        self.definition = definition
        self.max_pixels = max_pixels
        self.rule = ValueRule()

    def read_video(self, path: Path) -> Iterator[tuple[Source, Tensor | Exception]]:
        """The chosen frames uint8 [F, 3, H, W] of a video as one item, or what is wrong with it."""
        try:
            yield Source(path), read_clip(path, self.frames)
        except UnreadableFile as error:
            yield Source(path), error

    def load(self, picture: Picture, channels: Channels = "rgb") -> dict[str, Any]:
        """A picture, or the frames of a video, as a sample; `img` [3, H, W] is what a drawing shows."""
        if isinstance(picture, Tensor) and picture.ndim == 4:
            frames = [to_image(frame, channels) for frame in picture]
        else:
            frames = [read_picture(picture, channels, max_pixels=self.max_pixels)]
        return {"img": frames[len(frames) // 2], "frames": frames}

    def transform(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """The sample with its frames prepared for the model, float32 [F, 3, S, S]."""
        return {"inputs": torch.stack([self.model.preprocess(frame) for frame in sample["frames"]])}

    @torch.no_grad()
    def features(self, samples: Sequence[Mapping[str, Any]]) -> Tensor:
        """The features float32 [B, D] of samples, on the device of the model.

        They have length 1, but for those of videos by the definition `retrieval`, which are shorter.

        Raises:
            PictureError: The model gives NaN or Inf.
        """
        counts = [len(sample["inputs"]) for sample in samples]
        inputs = torch.cat([sample["inputs"] for sample in samples]).to(self.model.device)
        features = self.model.encode_image(inputs, normalize=self.definition == "retrieval").float()
        made = torch.stack([video_feature(frames, self.definition) for frames in features.split(counts)])
        if not made.isfinite().all():
            raise PictureError("the encoder returns NaN or Inf for this picture; check its weights")
        return made

    def predict(self, samples: Sequence[Mapping[str, Any]]) -> list[BaseDataElement]:
        """Data samples with the `embedding` float32 [D] on the CPU; of a video with the number of `frames`."""
        if not samples:
            return []
        return [
            _sample(sample, embedding=feature)
            for sample, feature in zip(samples, self.features(samples).cpu(), strict=True)
        ]


def _sample(inputs: Mapping[str, Any], **tensors: Tensor) -> BaseDataElement:
    """A data sample with the number of frames that it was made of."""
    return BaseDataElement(metainfo={"frames": len(inputs["inputs"])}, **tensors)


def frame_numbers(total: int, count: int) -> list[int]:
    """Which frames of a video are seen, from 0: evenly from the first to the last; a single one is the middle.

    The official rule: the i-th of `count` is `int(i (total - 1) / (count - 1))`. Short videos repeat frames.
    """
    if count == 1:
        return [total // 2]
    return [int(i * (total - 1) / (count - 1)) for i in range(count)]


def read_clip(path: Path, count: int = FRAMES) -> Tensor:
    """The frames uint8 [count, 3, H, W] of a video that `frame_numbers` names.

    Raises:
        UnreadableFile: The file is no video, has no frames, or is damaged.
    """
    total = count_frames(path)
    if not total:
        raise UnreadableFile(f"{path} is a video without frames; remove it")
    numbers = frame_numbers(total, count)
    found: dict[int, Tensor] = {}
    with VideoReader(path) as video:
        for frame in video.whole():
            if frame.number in numbers:
                found[frame.number] = frame.image
            if len(found) == len(set(numbers)):
                break
    if missing := set(numbers) - set(found):
        raise UnreadableFile(f"{path} ends before its frame {min(missing)} of {total}; the file is damaged")
    return torch.stack([found[number] for number in numbers])
