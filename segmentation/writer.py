"""Predicted class maps as files: indexed PNGs, overlays, and a list with the area of every class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pe_spatial.engine.checkpoint import write_atomically, write_text
from pe_spatial.engine.outputs import Records
from pe_spatial.visualization import draw_classes, palette

RESULT_FILE = "segmentation.json"


class SegmentationWriter:
    """Takes the predictions of a run of ``tools/predict.py``; safe to call from several threads and processes.

    Below ``labels/``, which mirrors the input, ``<name>.png`` has the original size and one index per pixel: the row of
    its class in ``classes`` of ``segmentation.json``. The palette holds the colours (more than 256 classes: 16 bits, no
    palette). ``confidence/<name>.png`` is the probability of that class, 255 for 1. The frames of a video are in a
    folder of its name. ``segmentation.json`` has the pixels of every class, by file and in total.

    Args:
        records: what is known of the files of the output folder.
        stems: names of the files to write by names of the input.
        metainfo: of the model: ``classes`` and optionally ``palette`` [[r, g, b], …].
        outputs: what to make beside ``labels``, of ``confidence`` and ``pictures``.
    """

    def __init__(
        self, records: Records, stems: Mapping[str, str], metainfo: Mapping[str, Any], outputs: Sequence[str] = ()
    ) -> None:
        self.records = records
        self.folder = records.path.parent
        self.stems = stems
        self.classes: Sequence[str] = metainfo["classes"]
        self.colors: list[list[int]] = metainfo.get("palette") or palette(len(self.classes) + 1)[1:].tolist()
        self.draws = "pictures" in outputs
        self.outputs = ("labels", *(name for name in outputs if name != "pictures"))
        records.claim([self.folder / name for name in self.outputs])

    def is_done(self, name: str, frames: int | None = None) -> bool:
        """Whether an earlier run has finished a file: an image, or all ``frames`` of a video."""
        known = self.records.of(name)
        expected = [None] if frames is None else list(range(frames))
        return all(
            frame in known
            and all(key in known[frame] and (self.folder / known[frame][key]).is_file() for key in self.outputs)
            for frame in expected
        )

    def write(
        self, name: str, image: Tensor, sample: BaseDataElement, frame: int | None = None
    ) -> NDArray[np.uint8] | None:
        """Write the class map of one image and, where asked for, draw it.

        Args:
            name: of the file, relative to the input.
            image: [3, H, W] uint8 RGB, the original image.
            sample: with ``pred_sem_seg`` in the frame of ``image``.
            frame: number of the frame where ``name`` is a video.

        Returns:
            [H', W', 3] uint8 RGB: the image tinted by class, with a legend; of large images a smaller one.
        """
        stem = self.stems[name] if frame is None else f"{self.stems[name]}/{frame:06d}"
        labels = sample.pred_sem_seg.data[0].cpu().numpy()  # [H, W]
        counts = count_labels(labels, len(self.classes))
        record: dict[str, Any] = {"file_name": name, **({} if frame is None else {"frame": frame})}
        record |= {"height": labels.shape[0], "width": labels.shape[1], "labels": f"labels/{stem}.png"}
        _save(self.folder / record["labels"], self._indexed(labels))
        if "confidence" in self.outputs:
            record["confidence"] = f"confidence/{stem}.png"
            _save(self.folder / record["confidence"], Image.fromarray(sample.pred_confidence.data[0].cpu().numpy()))
        record["pixels"] = {self.classes[k]: int(counts[k]) for k in np.flatnonzero(counts)}
        picture = None
        if self.draws:
            drawn = draw_classes(image, torch.from_numpy(labels), self.classes, self.colors)
            picture = drawn.permute(1, 2, 0).numpy()
        self.records.add(record)
        return picture

    def _indexed(self, labels: NDArray[Any]) -> Image.Image:
        if len(self.classes) > 256:
            return Image.fromarray(labels.astype(np.uint16))
        image = Image.fromarray(labels.astype(np.uint8, copy=False), mode="P")
        image.putpalette([channel for color in self.colors for channel in color])
        return image

    def close(self) -> Path:
        """Write ``segmentation.json``, whole or not at all, and return its path."""
        self.records.close()
        files = [record for record in self.records.collect() if (self.folder / record["labels"]).is_file()]
        total: dict[str, int] = dict.fromkeys(self.classes, 0)
        for record in files:
            for name, pixels in record["pixels"].items():
                total[name] += pixels
        everything = max(sum(total.values()), 1)
        content = {
            "run": self.records.run,
            "classes": [
                {"index": index, "name": name, "color": list(color)}
                for index, (name, color) in enumerate(zip(self.classes, self.colors, strict=True))
            ],
            "total": {name: {"pixels": n, "share": round(n / everything, 6)} for name, n in total.items() if n},
            "files": files,
        }
        write_text(self.records.path, json.dumps(content, indent=1))
        self.records.forget()
        return self.records.path


def count_labels(labels: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """Pixels of every class [K] of a map [H, W]."""
    counts = np.zeros(num_classes, np.int64)
    for rows in np.array_split(labels, max(labels.size // 2**22, 1)):  # bincount makes 64-bit copies
        counts += np.bincount(rows.ravel(), minlength=num_classes)
    return counts


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: image.save(file, format="PNG"))
