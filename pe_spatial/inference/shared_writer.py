"""The results of several models on the same pictures: each in a folder of its own, finished together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pe_spatial.inference.sample import PredictedSample
from pe_spatial.inference.stream import Source
from pe_spatial.inference.writer import ResultsWriter

Pictures = dict[str, NDArray[np.uint8] | None]  # drawn, by the names of the models


class SharedWriter:
    """Writes what a `SharedPredictor` predicts, with the writers of its models.

    It is to `write_all` what one `ResultsWriter` is. A picture is finished when the files of all models are written: it
    is recorded for all of them then, and one that some model lacks is done again for all.

    Args:
        writers: By the names of the models.
    """

    def __init__(self, writers: Mapping[str, ResultsWriter]) -> None:
        self.writers = dict(writers)

    def plan(self, files: Mapping[str, str | Path]) -> list[str]:
        """The names of files of which some model lacks results; see `ResultsWriter.plan`."""
        missing = {name for writer in self.writers.values() for name in writer.plan(files)}
        for writer in self.writers.values():
            writer.stamp({name: path for name, path in files.items() if name in missing})
        return [name for name in files if name in missing]

    def write(self, name: str, image: Tensor, sample: Any, frame: int | None = None) -> Pictures:  # noqa: ANN401
        """Write the predictions of all models for one picture.

        Args:
            name: Of the file, relative to the input.
            image: uint8 [3, H, W] RGB, the original image.
            sample: The predictions by the names of the models.
            frame: Number of the frame where `name` is a video.

        Returns:
            The drawn pictures.
        """
        samples: Mapping[str, PredictedSample] = sample
        written = {
            model: writer.write_files(name, image, samples[model], frame) for model, writer in self.writers.items()
        }
        for _, record in written.values():
            record()
        return {model: picture for model, (picture, _) in written.items()}

    def add_frame(self, source: Source, name: str, picture: Pictures | None) -> None:
        """See `ResultsWriter.add_frame`."""
        for model, writer in self.writers.items():
            writer.add_frame(source, name, None if picture is None else picture[model])

    def finish_video(self, name: str, frames: int) -> None:
        """See `ResultsWriter.finish_video`."""
        for writer in self.writers.values():
            writer.finish_video(name, frames)

    def remove_video(self, name: str) -> None:
        """See `ResultsWriter.remove_video`."""
        for writer in self.writers.values():
            writer.remove_video(name)

    def fail(self, name: str, problem: str) -> None:
        """See `ResultsWriter.fail`."""
        for writer in self.writers.values():
            writer.fail(name, problem)

    def leave(self) -> None:
        """See `ResultsWriter.leave`."""
        for writer in self.writers.values():
            writer.leave()

    def close(self) -> list[Path]:
        """Write the lists of all models; returns their paths."""
        return [writer.close() for writer in self.writers.values()]
