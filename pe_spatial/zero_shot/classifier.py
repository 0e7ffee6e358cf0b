"""`ZeroShotClassifier`: classes in words for pictures and videos; `stream` feeds it as it feeds a `Predictor`.

Letters: B pictures and videos, K classes, D channels of a feature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from mmengine.structures import BaseDataElement

from pe_spatial.backbones.text import PECore, Prompts, class_vectors
from pe_spatial.backbones.text.core import VideoDefinition
from pe_spatial.inference.inputs import Channels, Picture, list_pictures
from pe_spatial.zero_shot.embedding import FRAMES, Embedder

SCALE = 100.0  # of the cosines before the softmax, as in the official evaluations


class ZeroShotClassifier(Embedder):
    """Scores classes that are named in words; nothing is trained.

    Args:
        model: Any PE-Core.
        prompts: The classes and the templates of their sentences.
        batch_size: Pictures and videos at once.
        frames: That a video is judged by.
        definition: How the feature of a video is made of those of its frames; see `PECore.encode_video`.
        max_pixels: Larger images in files are refused; None: those that do not fit into the free memory.

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
        super().__init__(model, batch_size, frames, definition, max_pixels)
        self.prompts = prompts
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

    @torch.no_grad()
    def predict(self, samples: Sequence[Mapping[str, Any]]) -> list[BaseDataElement]:
        """Data samples with `embedding` [D], and `scores` and `cosines` [K], float32 on the CPU; see `Embedder`."""
        found = super().predict(samples)
        for sample in found:
            cosines = self.vectors @ sample.embedding.to(self.vectors.device)
            sample.cosines, sample.scores = cosines.cpu(), (SCALE * cosines).softmax(dim=0).cpu()
        return found
