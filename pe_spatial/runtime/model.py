"""`Runtime`: an exported model on pictures, without torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.errors import CheckpointError, OptionError
from pe_spatial.common.windows import strided_starts
from pe_spatial.engines.fitting import cut, filled, padded
from pe_spatial.engines.header import Header
from pe_spatial.engines.sessions import Array, open_session
from pe_spatial.runtime.arrays import enlarge, labels_of, place_mask
from pe_spatial.runtime.pictures import Input, Picture, Preparation

Result = dict[str, Any]


class Runtime:
    """Runs an exported model on single pictures.

    Args:
        path: Of the file that `pe-spatial export` has written.
        engine: `onnxruntime`, `openvino` or `tensorrt`; `auto` takes the fastest that has passed its proof.
        device: `cpu`, or `cuda` with or without a number.
        threads: Of a pass; None takes OMP_NUM_THREADS, or all cores.

    Attributes:
        header: What the file says of itself.
        classes: Names by label.

    Raises:
        CheckpointError: No such file, one that was changed, or one without a proof.
        MissingPackage: The engine is not installed.
        OptionError: An engine that does not run such a file.
    """

    def __init__(self, path: str | Path, engine: str = "auto", device: str = "cpu", threads: int | None = None) -> None:
        if Path(path).suffix == ".pt2":
            raise OptionError(f"{path}: torch runs it: pe_spatial.Predictor({str(path)!r}, engine='torch')")
        self._session, self.header = open_session(path, engine, device, threads)
        self.classes = tuple(self.header.metainfo.get("classes") or ())
        self.prepare = Preparation(self.header.preprocessing, self.header.multiple, Path(path))
        self._window: dict[str, list[int]] | None = self.header.preprocessing["window"]
        self._read = _reader_of(self.header, Path(path))

    def __call__(self, picture: Picture) -> Result:
        """Predict one picture.

        Args:
            picture: A path, the bytes of a file, a binary file object, a picture of Pillow, or uint8 [H, W, 3] (RGB).

        Returns:
            In the pixels of the picture: of a segmenter `labels` int64 [H, W]; of a depth model `depth` float32
            [H, W]; of a detector `boxes` float32 [N, 4] (x1, y1, x2, y2), `scores` [N], `labels` [N] and, where it has
            masks, `masks` bool [N, H, W]; of an encoder its maps, float32 [C, h, w].

        Raises:
            UnreadableFile: A file or bytes without a complete picture.
            PictureError: Something that is no picture.
        """
        return self._read(self, self.prepare(picture))

    def run(self, *arrays: Array) -> dict[str, Array]:
        """The outputs of the graph by their names, for inputs in the order of the header.

        Raises:
            OptionError: Inputs of another number, size or batch than the file has.
        """
        if len(arrays) != len(self.header.inputs):
            raise OptionError(f"{len(arrays)} inputs, but the graph takes {', '.join(self.header.inputs)}")
        batch, (height, width) = len(arrays[0]), arrays[0].shape[-2:]
        size, unit = self.header.size, self.header.multiple
        if (size is not None and (height, width) != size) or height % unit or width % unit:
            wanted = f"of {size} (H, W)" if size is not None else f"with sides that are multiples of {unit}"
            raise OptionError(f"images of {(height, width)} (H, W), but the graph takes images {wanted}")
        if self.header.batch not in (None, batch):
            raise OptionError(f"{batch} images, but the graph takes {self.header.batch} at once")
        found = self._session.run([np.ascontiguousarray(array, np.float32) for array in arrays])
        return dict(zip(self.header.outputs, found, strict=True))

    def run_one(self, images: NDArray[np.float32], *others: Array) -> dict[str, Array]:
        """The outputs of one image, which is padded and repeated to the size and the batch of the file."""
        given = (int(images.shape[-2]), int(images.shape[-1]))
        whole, count = self.header.size or given, self.header.batch or 1
        found = self.run(*(filled(array, count) for array in (padded(images, whole), *others)))
        shown = whole if self.header.gives_maps else given
        return {name: cut(values[:1], shown, given) for name, values in found.items()}

    # --- by task ------------------------------------------------------------------------------------------------------
    def _segment(self, given: Input) -> Result:
        scores = self._scores(given.images)[..., : given.image_size[0], : given.image_size[1]]
        return {"labels": labels_of(scores[0], given.original_size)}

    def _scores(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores [1, K, H, W] of every pixel of the input, averaged where windows overlap."""
        height, width = images.shape[-2:]
        if self._window is None:
            return self._enlarged(images)
        sides = [min(side, whole) for side, whole in zip(self._window["size"], (height, width), strict=True)]
        starts = [strided_starts(*each) for each in zip((height, width), sides, self._window["stride"], strict=True)]
        total: Any = 0
        counts = np.zeros((height, width), np.float32)
        for top in starts[0]:
            for left in starts[1]:
                place = (..., slice(top, top + sides[0]), slice(left, left + sides[1]))
                scores = self._enlarged(images[place])
                if isinstance(total, int):
                    total = np.zeros((1, scores.shape[1], height, width), np.float32)
                total[place] += scores
                counts[place[1:]] += 1
        averaged: NDArray[np.float32] = total / counts
        return averaged

    def _enlarged(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        unit = self.header.multiple
        height, width = images.shape[-2:]
        padded = np.pad(images, ((0, 0), (0, 0), (0, -height % unit), (0, -width % unit)))
        align_corners = bool(self.header.preprocessing["align_corners"])
        scores = enlarge(self.run_one(padded)["scores"], padded.shape[-2:], align_corners)
        return scores[..., :height, :width]

    def _measure_depth(self, given: Input) -> Result:
        depth = self.run_one(given.images)["depth"][..., : given.image_size[0], : given.image_size[1]]
        return {"depth": enlarge(depth, given.original_size)[0, 0]}

    def _detect(self, given: Input) -> Result:
        sizes = np.array([given.image_size], np.float32)
        found = {name: values[0] for name, values in self.run_one(given.images, sizes).items()}
        (height, width), (old_height, old_width) = given.image_size, given.original_size
        boxes = found["boxes"] * np.array([old_width / width, old_height / height] * 2, np.float32)
        boxes = np.clip(boxes, 0, np.array([old_width, old_height] * 2, np.float32))
        kept = (found["scores"] > 0) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        result: Result = {"boxes": boxes[kept], "scores": found["scores"][kept], "labels": found["labels"][kept]}
        if "masks" in found:
            pairs = zip(found["masks"][kept], result["boxes"], strict=True)
            masks = [place_mask(mask, box, given.original_size) for mask, box in pairs]
            result["masks"] = np.stack(masks) if masks else np.zeros((0, *given.original_size), bool)
        return result

    def _encode(self, given: Input) -> Result:
        return {name: values[0] for name, values in self.run_one(given.images).items()}


def _reader_of(header: Header, path: Path) -> Callable[[Runtime, Input], Result]:
    """What turns the outputs of a graph into a prediction."""
    outputs = set(header.outputs)
    if outputs == {"scores"}:
        return Runtime._segment
    if outputs == {"depth"}:
        return Runtime._measure_depth
    if outputs >= {"boxes", "scores", "labels"}:
        return Runtime._detect
    if header.preprocessing["task"] == "encoder":
        return Runtime._encode
    raise CheckpointError(
        f"{path}: its outputs ({', '.join(header.outputs)}) become a prediction only in pe_spatial.Predictor; call "
        "Runtime.run for the numbers, or export the checkpoint with --graph suppressed"
    )
