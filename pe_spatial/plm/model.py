"""PLMVision: pictures and videos to the visual tokens of a multimodal language model."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pe_spatial.backbones import EncoderConfig, PEBackbone
from pe_spatial.common.errors import OptionError, PictureError, require_choice, require_positive
from pe_spatial.common.pictures import read_image, to_image
from pe_spatial.plm.checkpoint import read_checkpoint
from pe_spatial.plm.projector import VisionProjector
from pe_spatial.plm.tiles import MAX_TILES, MODES, cut_picture, find_grid, normalize
from pe_spatial.plm.video import MAX_FRAMES, read_frames, resize_frames

Picture = str | PathLike[str] | Image.Image | NDArray[np.uint8] | Tensor


class PLMVision(nn.Module):
    """The vision half of PLM (Perception Language Model): encoder and projector, with the official preprocessing.

    The tokens are those of the last block of the truncated encoder without the class token, projected, then pooled.
    `from_files` loads a released checkpoint. The language model is that of transformers.

    Args:
        encoder: Official name, configuration or mapping of fields; see `pe_spatial.backbones.get_variant`. The side of
            a tile is its image size.
        dim: Channels D of the language model.
        pooling: Side of the squares of tokens that become one.
        mode: `thumb+tile`, or `vanilla`: every picture squashed to a single tile.
        max_tiles: Of a picture, without the thumbnail.
        max_frames: Of a video.
        batch: Tiles or frames that go through the encoder at once; it bounds the memory, not the result.
        rope: See `PEBackbone`.
        weights: File of the encoder's weights; None initializes random ones.

    Attributes:
        backbone: The encoder, a `PEBackbone`.
        projector: A `VisionProjector`.
        tile: Side S of a tile in pixels.
        tokens_per_tile: n, visual tokens of a tile or frame.

    Raises:
        OptionError: A number below 1, an unknown mode, an encoder with a pooling head, or a pooling that leaves no
            token.
    """

    def __init__(
        self,
        encoder: str | EncoderConfig | Mapping[str, Any],
        dim: int,
        *,
        pooling: int = 2,
        mode: str = "thumb+tile",
        max_tiles: int = MAX_TILES,
        max_frames: int = MAX_FRAMES,
        batch: int = 8,
        rope: str | int = "extrapolate",
        weights: str | None = None,
    ) -> None:
        super().__init__()
        require_positive(max_tiles=max_tiles, max_frames=max_frames, batch=batch)
        require_choice("mode", mode, MODES)
        # the final norm is applied where there is one, as upstream does; the encoders of PLM have none
        self.backbone = PEBackbone(encoder, norm=True, rope=rope, weights=weights)
        config = self.backbone.config
        if config.attn_pool:
            raise OptionError(f"{config.name} pools its tokens to one; use an encoder without attn_pool (PE-Lang)")
        self.projector = VisionProjector(config.width, dim, pooling)
        self.tile, self.mode, self.max_tiles = config.image_size, mode, max_tiles
        self.max_frames, self.batch = max_frames, batch
        rows, columns = self.projector.pooled((config.grid_size, config.grid_size))
        self.tokens_per_tile = rows * columns

    @classmethod
    def from_files(
        cls,
        source: str | PathLike[str],
        *,
        config: str | PathLike[str] | None = None,
        heads: int | None = None,
        pooling: int | None = None,
        mode: str | None = None,
        max_tiles: int | None = None,
        max_frames: int | None = None,
        batch: int = 8,
    ) -> PLMVision:
        """Load encoder and projector from a checkpoint of PLM.

        Both layouts are read: Meta's (`consolidated.pth` with `params.json`) and transformers' (`model.safetensors`, or
        shards with their index, with `config.json`). Of shards only those with a part of the two are opened. Shapes
        come from the tensors; what they do not show (heads, pooling, tiles) from the JSON file beside them.

        Args:
            source: The folder, the checkpoint file, or the index of its shards.
            config: The JSON file; None looks beside the checkpoint for `config.json` and `params.json`.
            heads: Attention heads of the encoder, where no file says it.
            pooling: Of the class, as the next ones; None takes what the JSON file says, and without it what the
                released models have.
            mode: Likewise.
            max_tiles: Likewise.
            max_frames: Likewise.
            batch: See the class.

        Returns:
            The model on the CPU, in float32 and evaluation mode.

        Raises:
            FileNotFoundError: Nothing is there.
            WeightsError: No vision tower or no projector, a part that is missing, damaged or another one, or a
                configuration that contradicts the tensors.
            OptionError: See the class.
        """
        found = read_checkpoint(source, config, heads)
        sizes = found.sizes
        model = cls(
            found.encoder,
            found.dim,
            pooling=sizes.pooling if pooling is None else pooling,
            mode=sizes.mode if mode is None else mode,
            max_tiles=sizes.max_tiles if max_tiles is None else max_tiles,
            max_frames=sizes.max_frames if max_frames is None else max_frames,
            batch=batch,
            rope=sizes.rope,
            weights=str(found.path),
        )
        model.projector.load_state_dict(found.projector)
        print_log(f"Projector weights: {found.encoder.width} to {found.dim} channels from {found.path}", "current")
        return model.eval()

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of tiles of a picture of this size; (0, 0) in the mode `vanilla`. See `find_grid`."""
        return (0, 0) if self.mode == "vanilla" else find_grid(height, width, self.tile, self.max_tiles)[0]

    def count_tokens(self, height: int, width: int) -> int:
        """How many visual tokens a picture of this size becomes."""
        rows, columns = self.grid_of(height, width)
        return (1 + rows * columns) * self.tokens_per_tile

    def tiles(self, picture: Picture) -> Tensor:
        """The normalized thumbnail and tiles [T, 3, S, S] of a picture, float32 on the CPU.

        Args:
            picture: A file, a PIL image, or uint8: an array [H, W, 3] or a tensor [3, H, W]; see
                `pe_spatial.common.pictures`.

        Raises:
            UnreadableFile: See `read_image`.
            PictureError: See `to_image`.
        """
        pixels = read_image(Path(picture)) if isinstance(picture, str | PathLike) else to_image(picture)
        return normalize(cut_picture(pixels.as_subclass(Tensor).cpu(), self.tile, self.max_tiles, self.mode))

    def frames(self, video: str | PathLike[str] | Tensor) -> Tensor:
        """The normalized frames [T, 3, S, S] of a video, float32 on the CPU; each is one tile.

        Args:
            video: A file, of which at most `max_frames` are taken (`choose_frames`); or frames that are taken as they
                are, uint8 [T, 3, H, W].

        Raises:
            UnreadableFile: See `read_frames`.
            PictureError: No frames of pixels.
        """
        if isinstance(video, str | PathLike):
            return normalize(read_frames(Path(video), self.tile, self.max_frames))
        if video.dtype != torch.uint8 or video.ndim != 4 or video.shape[1] != 3 or 0 in video.shape:
            raise PictureError(
                f"{video.dtype} {list(video.shape)} are not frames; pass uint8 [T, 3, H, W], T at least 1"
            )
        return normalize(resize_frames(video, self.tile))

    def features(self, x: Tensor) -> Tensor:
        """The encoder's tokens [T, h * w, W] of tiles [T, 3, S, S], without the class token, row by row."""
        (maps,) = self.backbone(x)
        return maps.flatten(2).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The visual tokens [T, n, D] of normalized tiles or frames [T, 3, S, S], moved to the model's device and type.

        At most `batch` of them go through the encoder at once.

        Raises:
            OptionError: Another shape.
        """
        if x.ndim != 4 or x.shape[1:] != (3, self.tile, self.tile) or not len(x):
            raise OptionError(f"tiles of {list(x.shape)} do not fit; pass [T, 3, {self.tile}, {self.tile}] (`tiles`)")
        like, side = self.projector.linear_1.weight, self.backbone.config.grid_size
        chunks = (chunk.to(like.device, like.dtype) for chunk in x.split(self.batch))
        return torch.cat([self.projector(self.features(chunk), (side, side)) for chunk in chunks])

    @torch.no_grad()
    def encode_image(self, picture: Picture) -> Tensor:
        """The visual tokens [T, n, D] of a picture, the thumbnail first; see `tiles`.

        `flatten(0, 1)` gives them in the order of the image tokens of a prompt.
        """
        return self(self.tiles(picture))

    @torch.no_grad()
    def encode_video(self, video: str | PathLike[str] | Tensor) -> Tensor:
        """The visual tokens [T, n, D] of a video, frame by frame; see `frames`."""
        return self(self.frames(video))
