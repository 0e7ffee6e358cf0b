"""The PE-Core of an index: how it is opened, how it is described, and whether it is the one that made an index."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pe_spatial.backbones.text import PECore, open_core
from pe_spatial.backbones.text.core import VideoDefinition
from pe_spatial.backbones.text.preprocessing import MEAN, STD
from pe_spatial.common.errors import OptionError, require_choice
from pe_spatial.common.integrity import content_hash
from pe_spatial.inference.inputs import Picture
from pe_spatial.inference.stream import Source, read_frames
from pe_spatial.zero_shot.embedding import FRAMES, Embedder

EMBEDDING = "embedding"
# what a video becomes: a row for a frame now and then, or one row by either of the two official definitions
VIDEO_ROWS = ("frames", "classification", "retrieval")


def open_model(
    encoder: str | Path, weights: str | Path | None = None, device: str | torch.device | None = None
) -> PECore:
    """A PE-Core as of `open_core`; random weights, where these are asked for, are those of every other run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return open_core(encoder, weights, device)


def describe(model: PECore) -> dict[str, Any]:
    """What the embeddings of pictures and texts depend on, as JSON; the hash is that of the weights in any layout."""
    text = model.config.text
    return {
        "name": model.config.name,
        "weights": content_hash(model.state_dict())[:16],
        "channels": model.output_dim,
        "image_size": model.image_size,
        "context": None if text is None else text.context,
    }


def require_same(index: Path, found: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse an encoder that has not made an index.

    Args:
        index: The folder, for the message.
        found: What the index says of its encoder.
        given: `describe` of the other.

    Raises:
        OptionError: They differ; the message says in what.
    """
    different = [key for key in given if found.get(key) != given[key]]
    if different:
        said = ", ".join(f"{key} {found.get(key)!r} instead of {given[key]!r}" for key in different)
        raise OptionError(
            f"{index} was made by another encoder than {given['name']} ({said}); give that encoder with --encoder and "
            "--weights, or make another index with pe-spatial index"
        )


class IndexEmbedder(Embedder):
    """Gives the rows of an index: of a picture one, of a video one or one for a frame now and then.

    Args:
        model: Any PE-Core.
        batch_size: Pictures, frames or videos at once.
        video_rows: One of `VIDEO_ROWS`.
        every: Of `frames`: seconds between two of them; 0 takes all frames.
        frames: Of the other two: how many a video is judged by.
        max_pixels: Larger images in files are refused; None: those that do not fit into the free memory.

    Attributes:
        names: Of what a picture gives.
        description: What the rows depend on, as JSON.

    Raises:
        OptionError: An unknown way, or a number below its least.
    """

    names: tuple[str, ...] = (EMBEDDING,)

    def __init__(
        self,
        model: PECore,
        batch_size: int = 1,
        video_rows: str = VIDEO_ROWS[0],
        every: float = 1.0,
        frames: int = FRAMES,
        max_pixels: int | None = None,
    ) -> None:
        require_choice("video rows", video_rows, VIDEO_ROWS)
        if every < 0:
            raise OptionError(f"every {every:g} seconds are below 0; 0 takes all frames")
        definition: VideoDefinition = "retrieval" if video_rows == "retrieval" else "classification"
        super().__init__(model, batch_size, frames, definition, max_pixels)
        self.every = every if video_rows == "frames" else None
        videos: dict[str, Any] = {"rows": video_rows}
        videos |= {"frames": frames} if self.every is None else {"every": self.every}
        self.description: dict[str, Any] = {
            "encoder": describe(model),
            "preprocessing": {
                "resize": "square",
                "interpolation": "bilinear, antialiased (Pillow)",
                "mean": MEAN,
                "std": STD,
            },
            "videos": videos,
        }

    def read_video(self, path: Path) -> Iterator[tuple[Source, Tensor | Exception]]:
        """What of a video is seen; frames are counted by the rows that they become."""
        if self.every is None:
            yield from super().read_video(path)
            return
        number, due = 0, 0.0
        for source, frame in read_frames(path):
            if isinstance(frame, Exception):
                yield source, frame
            elif isinstance(frame, Tensor) and (source.time or 0.0) >= due - 1e-6:
                yield replace(source, frame=number), frame
                number += 1
                due = 0.0 if self.every == 0 else ((source.time or 0.0) // self.every + 1) * self.every

    @torch.no_grad()
    def of_picture(self, picture: Picture) -> Tensor:
        """The embedding float32 [D] of one picture, on the CPU.

        Raises:
            UnreadableFile: A path or bytes without an image.
            PictureError: Something else that is no picture.
        """
        return self.features([self.transform(self.load(picture))])[0].cpu()
