"""SegmentationPredictor: class maps of images of any size; only the image and its class map are ever whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.structures import BaseDataElement, PixelData
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms.v2 import Resize

from pe_spatial.common.errors import UserError
from pe_spatial.common.files import temporary_path
from pe_spatial.data import KeepRatioResize
from pe_spatial.inference.inputs import Channels, Picture
from pe_spatial.inference.predictor import Predictor
from pe_spatial.segmentation.cell_grid import LARGE, CellGrid
from pe_spatial.segmentation.probabilities import Add, probability_file
from pe_spatial.segmentation.semantic import SemanticModel
from pe_spatial.segmentation.sliding import CELLS_KEPT, Axis, Grid, Tile, blend
from pe_spatial.segmentation.windows import Window, pad_to_multiple
from pe_spatial.training.amp import evaluation_autocast

# a model without a window takes images up to this many pixels whole, and larger ones through the window below
LARGEST_WHOLE = 2048 * 2048
FALLBACK_WINDOW = Window((1024, 1024), (768, 768))

_KINDS = {"semantic": "labels", "panoptic": "panoptic"}  # outputs of a model of objects
_LARGE = 16_000_000  # pixels from which a second copy of an image is worth avoiding


class SegmentationPredictor(Predictor):
    """Runs a segmentation model like `Predictor`, in memory that does not grow with image times classes.

    The pixels of an image are normalized window by window, and the scores of all classes exist for a small part of the
    image at a time (see `pe_spatial.segmentation.sliding`). The class map is that of the model's own `predict`, up to
    rounding where two classes score the same.

    `batch_size` counts windows, also of different images, that go through the model at once; see `configure` for the
    options of segmentation.

    A model of objects processes every image as a whole, as in its `predict`, because objects cannot be joined across
    windows.

    Raises:
        UserError: The checkpoint is of another task.
    """

    confidence = False
    probabilities: Path | None = None

    def bind_model(self) -> None:
        """Refuse a model that gives no class map, and look at what it gives.

        Raises:
            UserError: The checkpoint is of another task.
        """
        if not isinstance(self.model, SemanticModel):
            raise UserError(
                f"{self.checkpoint}: holds a {type(self.model).__name__}, which does not predict a class map"
            )
        self.finds_objects = tuple(getattr(self.model, "outputs", ("semantic",))) != ("semantic",)
        self.window: Window | None = self.model.window
        self._known_cells: dict[tuple[int, int], tuple[int, int]] = {}

    def configure(
        self, window: Window | None = None, confidence: bool = False, probabilities: Path | None = None
    ) -> SegmentationPredictor:
        """Choose how images are cut and what is predicted besides the class map.

        Args:
            window: How images are cut, in pixels of the model's input; None takes the model's.
            confidence: Also give the probability of the class of every pixel.
            probabilities: A folder for those of all classes; the sample names the file, which the caller moves away.

        Returns:
            This predictor.

        Raises:
            UserError: The model finds objects, and these options are not for it.
        """
        options = {"window": window, "confidence": confidence, "probabilities": probabilities}
        for option in [name for name, value in options.items() if value] if self.finds_objects else ():
            raise UserError(
                f"{self.checkpoint}: {option} works only for semantic segmentation, but this model finds objects; "
                f"remove it"
            )
        self.window = window or self.model.window
        self.confidence, self.probabilities = confidence, probabilities
        return self

    @property
    def shrinks(self) -> bool:
        """Whether the pipeline resizes images."""
        return any(isinstance(step, KeepRatioResize | Resize) for step in self._pipeline.transforms)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The maps that are predicted, by the names that `SegmentationWriter` has for them."""
        if not self.finds_objects:
            asked = {"labels": True, "confidence": self.confidence, "probabilities": self.probabilities is not None}
            return tuple(kind for kind, wanted in asked.items() if wanted)
        return tuple(kind for output, kind in _KINDS.items() if output in self.model.outputs)

    def load(self, picture: Picture, channels: Channels = "rgb") -> dict[str, Any]:
        """Load one image; a large one that is not resized in the memory order of the model, so that there is one."""
        sample = super().load(picture, channels)
        if sample["img"].numel() > 3 * _LARGE and not self.shrinks:
            sample["img"] = tv_tensors.wrap(sample["img"].contiguous(), like=sample["img"])
        return sample

    @torch.no_grad()
    def infer(self, samples: Sequence[dict[str, Any]]) -> list[BaseDataElement]:
        """Segment prepared images.

        Returns:
            Data samples with `pred_sem_seg` [1, H, W], uint8 up to 256 classes, else int32, and where asked for
            `pred_confidence` [1, H, W], uint8 from 0 to 255, both on the CPU and in the frame of the original image;
            and the metainfo `probabilities`, the path of a .npy file, float16 [H, W, K]. Of a model of objects those
            of its `predict`.
        """
        if self.finds_objects:
            return super().infer(samples)
        grids = [self._grid(sample) for sample in samples]
        scores = self._scores(self._windows(samples, grids))
        return [self._label(sample["data_samples"], grid, scores) for sample, grid in zip(samples, grids, strict=True)]

    def _grid(self, sample: dict[str, Any]) -> Grid:
        preprocessor = self.model.data_preprocessor
        network = sample["inputs"].shape[-2:]
        divisor, least = preprocessor.size_divisor, preprocessor.pad_to or (0, 0)
        padded = [max(-(-side // divisor) * divisor, low) for side, low in zip(network, least, strict=True)]
        window = self.window
        if window is None and padded[0] * padded[1] > LARGEST_WHOLE:
            window = FALLBACK_WINDOW
        size, stride = (padded, padded) if window is None else window
        axes = []
        for i, length in enumerate(sample["data_samples"].ori_shape[:2]):
            side = min(size[i], padded[i])
            extent = -(-side // self.model.stride) * self.model.stride
            axes.append(
                Axis(length, network[i], padded[i], side, min(stride[i], side), extent, self.model.align_corners)
            )
        rows, columns = axes
        grid = Grid.over(rows, columns, (rows.window, columns.window), self.model.num_classes)
        if len(grid.strips) > 1:  # too many if score maps are coarser than pixels
            grid = Grid.over(rows, columns, self._cells(rows.window, columns.window), self.model.num_classes)
        return grid

    def _cells(self, height: int, width: int) -> tuple[int, int]:
        """The size (h, w) of the score map of a window."""
        if (height, width) not in self._known_cells:
            black = Crop(torch.zeros(3, height, width, dtype=torch.uint8), (height, width))
            cells = next(self._run([black])).shape
            self._known_cells[height, width] = (cells[0], cells[1])
        return self._known_cells[height, width]

    def _windows(self, samples: Sequence[dict[str, Any]], grids: Sequence[Grid]) -> Iterator[Crop]:
        for sample, grid in zip(samples, grids, strict=True):
            height, width = grid.rows.window, grid.columns.window
            for y, x in grid.places():
                yield Crop(sample["inputs"][:, y : y + height, x : x + width], (height, width))

    def _scores(self, crops: Iterator[Crop]) -> Iterator[Tensor]:
        """The score maps [h, w, K] of crops, computed when they are asked for, no more than a batch ahead."""
        for _, of_one_size in groupby(crops, key=attrgetter("window")):
            while batch := list(islice(of_one_size, self.batch_size)):
                yield from self._run(batch)

    def _run(self, batch: Sequence[Crop]) -> Iterator[Tensor]:
        height, width = batch[0].window
        pixels = [crop.pixels for crop in batch]
        normalized = self.model.data_preprocessor({"inputs": pixels})["inputs"][..., :height, :width]
        # where a window reaches into the padding of its image
        missing = (0, width - normalized.shape[-1], 0, height - normalized.shape[-2])
        inputs = pad_to_multiple(F.pad(normalized, missing), self.model.stride)
        with evaluation_autocast(self.config, self.device):  # of the network alone: windows are joined in float32
            scores = self.model.score_map(inputs)
        yield from scores.float().permute(0, 2, 3, 1).contiguous()

    def _label(self, sample: BaseDataElement, grid: Grid, scores: Iterator[Tensor]) -> BaseDataElement:
        height, width = sample.ori_shape[:2]
        cells = grid.seen()
        if len(grid.strips) == 1 and self._is_enlarged((cells.rows.length, cells.columns.length), (height, width)):
            labels = CellGrid((cells.rows.length, cells.columns.length), (height, width)).labels(_joined(cells, scores))
            sample.set_field(PixelData(data=labels.cpu()[None]), "pred_sem_seg", dtype=PixelData)
            return sample
        tiles = blend(grid, scores)
        if self.probabilities is None:
            return self._fill(sample, tiles, None)
        path = temporary_path(self.probabilities / "pixels.npy")
        with probability_file(path, (height, width, self.model.num_classes)) as add:
            sample.set_metainfo({"probabilities": path})
            return self._fill(sample, tiles, add)

    def _is_enlarged(self, seen: tuple[int, int], frame: tuple[int, int]) -> bool:
        """Whether labels alone are asked for, of a picture that is much larger than what the model sees of it."""
        enough = 4 * self.model.num_classes * seen[0] * seen[1] <= CELLS_KEPT and frame[0] * frame[1] > LARGE
        asked = self.confidence or self.probabilities is not None
        return enough and not asked and all(4 * few <= many for few, many in zip(seen, frame, strict=True))

    def _fill(self, sample: BaseDataElement, tiles: Iterator[Tile], add: Add | None) -> BaseDataElement:
        height, width = sample.ori_shape[:2]
        labels = np.empty((height, width), np.uint8 if self.model.num_classes <= 256 else np.int32)
        confidence = np.empty((height, width), np.uint8) if self.confidence else None
        for top, left, scores in tiles:
            place = (slice(top, top + scores.shape[0]), slice(left, left + scores.shape[1]))
            labels[place] = best_class(scores)
            if confidence is not None or add is not None:
                probabilities = self.model.probabilities(scores.permute(2, 0, 1))  # [K, R, C]
            if confidence is not None:
                confidence[place] = (probabilities.amax(0) * 255).round().byte().cpu().numpy()
            if add is not None:
                add(top, left, probabilities.permute(1, 2, 0).half().cpu().numpy())
        sample.set_field(PixelData(data=torch.from_numpy(labels)[None]), "pred_sem_seg", dtype=PixelData)
        if confidence is not None:
            sample.set_field(PixelData(data=torch.from_numpy(confidence)[None]), "pred_confidence", dtype=PixelData)
        return sample


class Crop(NamedTuple):
    """The pixels of a window that the image has, uint8 [3, h, w], and the (H, W) of the window with its padding."""

    pixels: Tensor
    window: tuple[int, int]


def _joined(grid: Grid, scores: Iterator[Tensor]) -> Tensor:
    """The scores [K, H, W] of all tiles of a grid."""
    whole = torch.empty(0)
    for number, tile in enumerate(blend(grid, scores)):
        if number == 0:
            whole = tile.scores.new_empty(grid.rows.length, grid.columns.length, tile.scores.shape[2])
        rows, columns = tile.scores.shape[:2]
        whole[tile.top : tile.top + rows, tile.left : tile.left + columns] = tile.scores
    return whole.permute(2, 0, 1)


def best_class(scores: Tensor) -> NDArray[np.int64]:
    """The class of every pixel [R, C] from scores [R, C, K]."""
    # numpy's is five times faster than torch's on a CPU
    return scores.numpy().argmax(-1) if scores.device.type == "cpu" else scores.argmax(-1).cpu().numpy()
