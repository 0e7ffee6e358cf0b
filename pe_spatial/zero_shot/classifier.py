"""`ZeroShotClassifier`: classes in words for pictures and videos; `stream` feeds it as it feeds a `Predictor`.

Letters: B pictures and videos, F frames of one, K classes, S side of the prepared pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.backbones.text import PECore, Prompts, class_vectors
from pe_spatial.backbones.text.core import VideoDefinition, video_feature
from pe_spatial.common.errors import UnreadableFile, require_positive
from pe_spatial.common.pictures import ValueRule, to_image
from pe_spatial.common.video import VideoReader, count_frames
from pe_spatial.inference.inputs import Channels, Picture, list_pictures, read_picture
from pe_spatial.inference.stream import Source

FRAMES = 8  # of a video, as in the official evaluations
SCALE = 100.0  # of the cosines before the softmax, as in the official evaluations


class ZeroShotClassifier:
    """Scores classes that are named in words; nothing is trained.

    Args:
        model: Any PE-Core.
        prompts: The classes and the templates of their sentences.
        batch_size: Pictures and videos at once.
        frames: That a video is judged by.
        definition: How the feature of a video is made of those of its frames; see `PECore.encode_video`.
        max_pixels: Larger images of files are refused; None: those that the free memory does not hold.

    Attributes:
        vectors: float32 [K, D], one normalized feature for each class.
    """

    def __init__(
        self,
        model: PECore,
        prompts: Prompts,
        batch_size: int = 1,
        frames: int = FRAMES,
        definition: VideoDefinition = "classification",
        max_pixels: int | None = None,
    ) -> None:
        require_positive(batch_size=batch_size, frames=frames)
        self.model = model
        self.prompts = prompts
        self.batch_size = batch_size
        self.frames = frames
        self.definition = definition
        self.max_pixels = max_pixels
        self.rule = ValueRule()
        self.vectors = class_vectors(model, prompts)

    def __call__(self, pictures: Picture | Iterable[Picture], channels: Channels = "rgb") -> Any:  # noqa: ANN401
        """The probabilities of the classes.

        Args:
            pictures: One picture or many; see `Predictor.__call__`.
            channels: The order of colors in arrays and tensors; OpenCV's is "bgr".

        Returns:
            float32 [K] on the CPU, or [B, K] for many pictures.

        Raises:
            UnreadableFile: A path or bytes without an image.
            PictureError: Something else that is no picture.
        """
        waiting, is_many = list_pictures(pictures)
        scores = [torch.empty(0, len(self.vectors))]
        while batch := [self.transform(self.load(picture, channels)) for picture in islice(waiting, self.batch_size)]:
            scores.append(torch.stack([sample.scores for sample in self.predict(batch)]))
        return torch.cat(scores) if is_many else scores[1][0]

    # --- what `stream` asks of a predictor ----------------------------------------------------------------------------
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
    def predict(self, samples: Sequence[Mapping[str, Any]]) -> list[BaseDataElement]:
        """Data samples with `scores` and `cosines`, float32 [K] on the CPU; of a video also `frames`."""
        if not samples:
            return []
        counts = [len(sample["inputs"]) for sample in samples]
        inputs = torch.cat([sample["inputs"] for sample in samples]).to(self.model.device)
        features = self.model.encode_image(inputs, normalize=self.definition == "retrieval").float()
        found = []
        for frames in features.split(counts):
            cosines = self.vectors @ video_feature(frames, self.definition)
            sample = BaseDataElement()
            sample.cosines, sample.scores = cosines.cpu(), (SCALE * cosines).softmax(dim=0).cpu()
            sample.set_metainfo({"frames": len(frames)})
            found.append(sample)
        return found


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
        raise UnreadableFile(f"{path} is a video without frames; leave it out")
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
