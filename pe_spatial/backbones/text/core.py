"""PECore: an encoder of pictures and a text tower whose features can be compared.

Letters: B pictures, texts or videos, F frames, L tokens, D channels of a feature, S side of the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from PIL import Image
from torch import Tensor

from pe_spatial.backbones.text.preprocessing import prepare_picture
from pe_spatial.backbones.text.tokenizer import Tokenizer, open_tokenizer
from pe_spatial.backbones.text.tower import TextTower
from pe_spatial.backbones.variants import VARIANTS, EncoderConfig, TextConfig, get_variant
from pe_spatial.backbones.vit import VisionTransformer
from pe_spatial.common.errors import OptionError, require_choice

VideoDefinition = Literal["classification", "retrieval"]
VIDEO_DEFINITIONS = ("classification", "retrieval")


class PECore(TextTower):
    """A whole PE-Core: `encode_image`, `encode_text` and `encode_video` return features in one space.

    The image half, under the attribute `visual`, is the encoder of `PEBackbone`; the state dict is an official one.
    Texts need the packages of the extra `text`.

    Args:
        variant: Official name, configuration or mapping of fields with `text`; see `get_variant` and `TextConfig`.
        weights: An official name, a file or a folder with one; None initializes random weights.

    Attributes:
        config: Of the image half, with that of the text half as `config.text`.

    Raises:
        OptionError: The variant has no text tower; the message names those that have one.
        FileNotFoundError: There are no such weights.
        WeightsError: The weights do not fit, or contain only one half.
    """

    def __init__(self, variant: str | EncoderConfig | Mapping[str, Any], *, weights: str | None = None) -> None:
        config = get_variant(variant)
        text, output_dim = text_of(config)
        with torch.device("meta" if weights is not None else torch.get_default_device()):
            super().__init__(text, output_dim)
            self.visual = VisionTransformer(config)
        self.config = config
        if weights is not None:
            from pe_spatial.backbones.weights import load_core

            print_log(f"Weights of PE-Core: {load_core(self, weights)}", "current")
        self.eval()

    @property
    def output_dim(self) -> int:
        """D."""
        return self.text_projection.shape[1]

    @property
    def image_size(self) -> int:
        """S of the pictures that the variant was trained with; `encode_image` takes others too."""
        return self.config.image_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

    @property
    def tokenizer(self) -> Tokenizer:
        """That of OpenAI's CLIP, with which every PE-Core was trained."""
        return open_tokenizer()

    def preprocess(self, picture: Image.Image | Tensor) -> Tensor:
        """A picture as float32 [3, S, S]; see `prepare_picture`."""
        return prepare_picture(picture, self.image_size)

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """The tokens [B, L] of texts, on the device of the weights; see `Tokenizer`."""
        return self.tokenizer(texts, self.config.text.context).to(self.device)  # type: ignore[union-attr]

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """Map prepared pictures [B, 3, H, W] to features [B, D], of length 1 if `normalize`."""
        features = self.visual(images)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, texts: str | Sequence[str] | Tensor, normalize: bool = False) -> Tensor:
        """Map texts, or their tokens [B, L], to features [B, D], of length 1 if `normalize`."""
        tokens = texts if isinstance(texts, Tensor) else self.tokenize(texts)
        features = self.text_features(tokens)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_video(self, videos: Tensor, definition: VideoDefinition = "classification") -> Tensor:
        """Map the prepared frames of videos [B, F, 3, H, W] to features [B, D].

        The official code has two definitions. `classification` is the mean of the raw features of the frames, then
        normalized. `retrieval` is the mean of the normalized features, not normalized again: the length of that mean
        scales the score of a video, so that the ranking of videos for a text is another than that by cosines.

        Raises:
            OptionError: A video without frames, or an unknown definition.
        """
        require_choice("definition", definition, VIDEO_DEFINITIONS)
        if videos.ndim != 5 or not videos.shape[1]:
            raise OptionError(f"videos {list(videos.shape)} are not [B, F, 3, H, W] with at least one frame each")
        frames = self.encode_image(videos.flatten(0, 1), normalize=definition == "retrieval")
        return video_feature(frames.unflatten(0, videos.shape[:2]), definition)

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """The scaled similarities [B, T] of normalized features [B, D] of pictures and [T, D] of texts."""
        return self.logit_scale.exp() * image_features @ text_features.T


def video_feature(frames: Tensor, definition: VideoDefinition) -> Tensor:
    """The feature [..., D] of a video of those of its frames [..., F, D]; see `PECore.encode_video`.

    Args:
        frames: Raw for `classification`, normalized for `retrieval`.
        definition: Which of the two.
    """
    mean = frames.mean(dim=-2)
    return F.normalize(mean, dim=-1) if definition == "classification" else mean


def text_of(config: EncoderConfig) -> tuple[TextConfig, int]:
    """The text tower of an encoder and the channels of their features.

    Raises:
        OptionError: It has none.
    """
    if config.text is not None and config.output_dim is not None and config.attn_pool:
        return config.text, config.output_dim
    cores = ", ".join(name for name, row in VARIANTS.items() if row.text is not None)
    raise OptionError(
        f"{config.name} has no text tower: only PE-Core was trained with texts; use one of {cores}, or give your own "
        "encoder the fields text, attn_pool and output_dim"
    )
