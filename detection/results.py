"""Detections of many images as one COCO file, and as drawn pictures."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_area

from pe_spatial.detection.metrics import encode_masks
from pe_spatial.visualization import draw_instances


class DetectionWriter:
    """Collects the detections of a run of `tools/predict.py`; safe to call from several threads.

    `predictions.json` is a COCO data set: `images` (`file_name` relative to the input; frames of a video have
    `frame` too, from 0), `categories` with the ids of the training data, and `annotations` with `score`,
    `bbox` [x, y, width, height] in pixels of the original image, `area` and, of models with masks, `segmentation`
    as compressed RLE; without masks the area is the box's.

    Args:
        folder: where the file goes.
        metainfo: of the model: `classes` and, where the ids do not count from 1, `category_ids`.
        threshold: detections that score less are left out.
    """

    def __init__(self, folder: Path, metainfo: Mapping[str, Any], threshold: float = 0.5) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold} is no score; give a number from 0 to 1")
        self.path = folder / "predictions.json"
        self.classes: Sequence[str] = metainfo["classes"]
        self.category_ids: Sequence[int] = metainfo.get("category_ids") or range(1, len(self.classes) + 1)
        self.threshold = threshold
        self._results: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
        self._lock = threading.Lock()

    def write(self, name: str, image: Tensor, sample: BaseDataElement, frame: int | None = None) -> NDArray[np.uint8]:
        """Take the detections of one image and draw them.

        Args:
            name: file name in the record.
            image: [3, H, W] uint8 RGB, the original image.
            sample: with `pred_instances` in the frame of `image`.
            frame: number of the frame where `name` is a video.

        Returns:
            [H', W', 3] uint8 RGB; small images come back enlarged.
        """
        found = sample.pred_instances.to("cpu")
        found = found[found.scores >= self.threshold]
        height, width = image.shape[-2:]
        entry = {"file_name": name, "height": height, "width": width, **({} if frame is None else {"frame": frame})}
        columns = zip(found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist(), _shapes(found), strict=True)
        rows = [
            {
                "category_id": int(self.category_ids[label]),
                "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(score, 5),
                "iscrowd": 0,
                **shape,
            }
            for (x1, y1, x2, y2), score, label, shape in columns
        ]
        with self._lock:
            self._results.append((entry, rows))
        return draw_instances(image, found, self.classes, self.threshold).permute(1, 2, 0).numpy()

    def close(self) -> Path:
        """Write the file, whole or not at all, in the order of the names, and return its path."""
        results = sorted(self._results, key=lambda result: (result[0]["file_name"], result[0].get("frame", 0)))
        rows = [(number, row) for number, (_, found) in enumerate(results, start=1) for row in found]
        content = {
            "images": [{"id": number, **entry} for number, (entry, _) in enumerate(results, start=1)],
            "categories": [
                {"id": int(number), "name": name} for number, name in zip(self.category_ids, self.classes, strict=True)
            ],
            "annotations": [
                {"id": number, "image_id": image, **row} for number, (image, row) in enumerate(rows, start=1)
            ],
        }
        partial = self.path.with_suffix(".json.writing")
        partial.write_text(json.dumps(content))
        partial.replace(self.path)
        return self.path


def _shapes(found: Any) -> list[dict[str, Any]]:
    """`area` and, where there are masks, `segmentation` of every instance."""
    if "masks" not in found:
        return [{"area": round(area, 2)} for area in box_area(found.bboxes).tolist()]
    areas = found.masks.flatten(1).sum(1).tolist()
    return [{"area": a, "segmentation": rle} for a, rle in zip(areas, encode_masks(found.masks), strict=True)]
