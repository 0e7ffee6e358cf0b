"""Predicted class maps and segments as files: indexed PNGs, overlays, and lists with the area of every class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from torch import Tensor

from pe_spatial.common.files import put_in_place, remove_leftovers, write_json_stream
from pe_spatial.common.pictures import save_image
from pe_spatial.common.records import Records
from pe_spatial.data import encode_mask
from pe_spatial.visualization import draw_classes, draw_instances, palette

KINDS = {"pred_sem_seg": "labels", "pred_confidence": "confidence", "pred_panoptic": "panoptic"}


class SegmentationWriter:
    """Takes the predictions of a run of `tools/predict.py`; safe to call from several threads and processes.

    The folders mirror the input; the frames of a video are in a folder of its name. All PNGs have the original size.

    * `labels/<name>.png`: one index per pixel, the row of its class in `classes` of `segmentation.json`. The
      palette holds the colors (more than 256 classes: 16 bits, no palette).
    * `confidence/<name>.png`: the probability of that class, 255 for 1.
    * `probabilities/<name>.npy`: those of all classes, float16 [H, W, K].
    * `panoptic/<name>.png` and `panoptic.json`: COCO's panoptic format; an id is R + 256 G + 65536 B, 0 for none.
    * `segmentation.json`: the pixels of every class, by file and in total, and of a model of objects the
      `instances`: label, score, box [x, y, width, height] and mask as compressed RLE.

    Args:
        records: what is known of the files of the output folder.
        stems: names of the files to write by names of the input.
        metainfo: of the model: `classes` and optionally `palette` [[r, g, b], …], `is_thing` by class, and
            `category_ids` of COCO's format where they do not count from 1.
        kinds: the folders that predictions go to, of `labels`, `confidence`, `probabilities` and `panoptic`.
        threshold: instances that score less are left out.
        draw: whether `write` draws.
    """

    def __init__(
        self,
        records: Records,
        stems: Mapping[str, str],
        metainfo: Mapping[str, Any],
        kinds: Sequence[str] = ("labels",),
        threshold: float = 0.5,
        draw: bool = True,
    ) -> None:
        self.records = records
        self.folder = records.path.parent
        self.stems = stems
        self.metainfo = metainfo
        self.classes: Sequence[str] = metainfo["classes"]
        self.colors: list[list[int]] = metainfo.get("palette") or palette(len(self.classes) + 1)[1:].tolist()
        self.kinds = tuple(kinds)
        self.threshold = threshold
        self.draw = draw
        records.claim([self.folder / kind for kind in self.kinds])

    def is_done(self, name: str, frames: int | None = None) -> bool:
        """Whether an earlier run has finished a file: an image, or all `frames` of a video."""
        known = self.records.of(name)
        expected = [None] if frames is None else list(range(frames))
        return all(frame in known and self._is_complete(known[frame]) for frame in expected)

    def _is_complete(self, record: Mapping[str, Any]) -> bool:
        return all(kind in record and (self.folder / record[kind]).is_file() for kind in self.kinds)

    def write(
        self, name: str, image: Tensor, sample: BaseDataElement, frame: int | None = None
    ) -> NDArray[np.uint8] | None:
        """Write what was predicted for one image and, where asked for, draw it.

        Args:
            name: of the file, relative to the input.
            image: [3, H, W] uint8 RGB, the original image.
            sample: in the frame of `image`; see `pe_spatial.segmentation.logits`.
            frame: number of the frame where `name` is a video.

        Returns:
            [H', W', 3] uint8 RGB: the image tinted by class, with a legend; of large images a smaller one.
        """
        sample = sample.cpu()
        stem = self.stems[name] if frame is None else f"{self.stems[name]}/{frame:06d}"
        record: dict[str, Any] = {"file_name": name, **({} if frame is None else {"frame": frame})}
        record |= {"height": image.shape[-2], "width": image.shape[-1]}
        for field, kind in KINDS.items():
            if kind in self.kinds:
                record[kind] = f"{kind}/{stem}.png"
                self._save(self.folder / record[kind], kind, sample.get(field).data[0].numpy())
        if "probabilities" in self.kinds:
            record["probabilities"] = f"probabilities/{stem}.npy"
            place = self.folder / record["probabilities"]
            place.parent.mkdir(parents=True, exist_ok=True)
            put_in_place(sample.probabilities, place)
        counts = np.zeros(len(self.classes), np.int64)
        if "pred_panoptic" in sample:
            record["segments"] = describe_segments(sample.pred_panoptic.data[0].numpy(), sample.segments)
            for segment in record["segments"]:
                counts[segment["label"]] += segment["area"]
        if "pred_sem_seg" in sample:
            counts = count_labels(sample.pred_sem_seg.data[0].numpy(), len(self.classes))
        if "pred_instances" in sample:
            record["instances"] = describe_instances(sample.pred_instances, self.threshold)
        record["pixels"] = {self.classes[k]: int(counts[k]) for k in np.flatnonzero(counts).tolist()}
        picture = self._draw(image, sample) if self.draw else None
        self.records.add(record)
        return picture

    def _save(self, path: Path, kind: str, values: NDArray[Any]) -> None:
        if kind == "panoptic":
            values = np.stack([values >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
        elif kind == "labels":
            values = values.astype(np.uint16 if len(self.classes) > 256 else np.uint8, copy=False)
        has_palette = kind == "labels" and len(self.classes) <= 256
        save_image(path, values, colors=self.colors if has_palette else None)

    def _draw(self, image: Tensor, sample: BaseDataElement) -> NDArray[np.uint8]:
        if "pred_panoptic" in sample:
            ids = sample.pred_panoptic.data[0].long()
            label_of = torch.full((int(ids.max()) + 1,), -1)
            for segment in sample.segments:
                label_of[segment["id"]] = segment["label"]
            drawn = draw_classes(image, label_of[ids], self.classes, self.colors, ids)
        elif "pred_sem_seg" in sample:
            drawn = draw_classes(image, sample.pred_sem_seg.data[0], self.classes, self.colors)
        else:
            drawn = draw_instances(image, sample.pred_instances, self.classes, self.threshold)
        return drawn.permute(1, 2, 0).numpy()

    def close(self) -> Path:
        """Write `segmentation.json`, and `panoptic.json`, whole or not at all; returns the path of the first."""
        self.records.close()
        remove_leftovers(self.folder, recursive=True)
        files = [record for record in self.records.collect() if self._is_complete(record)]
        total: dict[str, int] = dict.fromkeys(self.classes, 0)
        for record in files:
            for name, pixels in record["pixels"].items():
                total[name] += pixels
        everything = max(sum(record["height"] * record["width"] for record in files), 1)
        content = {
            "run": self.records.run,
            "classes": [
                {"index": index, "name": name, "color": list(color)}
                for index, (name, color) in enumerate(zip(self.classes, self.colors, strict=True))
            ],
            "total": [{"name": name, "pixels": n, "share": round(n / everything, 6)} for name, n in total.items() if n],
            "files": files,
        }
        if "panoptic" in self.kinds:
            write_json_stream(self.folder / "panoptic.json", coco_panoptic(files, self.metainfo, self.colors))
        write_json_stream(self.records.path, content)
        self.records.forget()
        return self.records.path


def count_labels(labels: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """Pixels of every class [K] of a map [H, W]."""
    counts = np.zeros(num_classes, np.int64)
    for rows in np.array_split(labels, max(labels.size // 2**22, 1)):  # bincount makes 64-bit copies
        counts += np.bincount(rows.ravel(), minlength=num_classes)
    return counts


def describe_segments(ids: NDArray[Any], segments: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Segments of a map of ids [H, W] with their boxes [x, y, width, height], for JSON."""
    described = []
    for segment in segments:
        inside = ids == segment["id"]
        described.append(
            {
                "id": int(segment["id"]),
                "label": int(segment["label"]),
                "score": round(float(segment["score"]), 5),
                "area": int(segment["area"]),
                "bbox": _box(np.flatnonzero(inside.any(0)), np.flatnonzero(inside.any(1))),
            }
        )
    return described


def _box(columns: NDArray[np.intp], rows: NDArray[np.intp]) -> list[int]:
    if not len(columns):
        return [0, 0, 0, 0]
    return [int(n) for n in (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)]


def describe_instances(found: Any, threshold: float) -> list[dict[str, Any]]:
    """Instances of at least that score, for JSON."""
    found = found[found.scores >= threshold]
    return [
        {
            "label": label,
            "score": round(score, 5),
            "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            "area": int(mask.sum()),
            "segmentation": encode_mask(mask.numpy()),
        }
        for label, score, (x1, y1, x2, y2), mask in zip(
            found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), found.masks, strict=True
        )
    ]


def coco_panoptic(
    files: Sequence[Mapping[str, Any]], metainfo: Mapping[str, Any], colors: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Records with `segments` in COCO's panoptic format; the PNGs are relative to the folder `panoptic`."""
    classes = metainfo["classes"]
    numbers = metainfo.get("category_ids") or range(1, len(classes) + 1)
    things = metainfo.get("is_thing") or [False] * len(classes)
    categories = zip(numbers, classes, things, colors, strict=True)
    images, annotations = [], []
    for image_id, record in enumerate(files, start=1):
        frame = {"frame": record["frame"]} if "frame" in record else {}
        images.append({"id": image_id, **{key: record[key] for key in ("file_name", "height", "width")}, **frame})
        infos = [
            {**{key: value for key, value in segment.items() if key != "label"}, "iscrowd": 0}
            | {"category_id": int(numbers[segment["label"]])}
            for segment in record["segments"]
        ]
        place = record["panoptic"].partition("/")[2]
        annotations.append({"image_id": image_id, "file_name": place, "segments_info": infos})
    return {
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": int(number), "name": name, "isthing": int(is_thing), "color": list(color)}
            for number, name, is_thing, color in categories
        ],
    }
