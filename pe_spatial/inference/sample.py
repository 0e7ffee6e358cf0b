"""What a `Predictor` returns: a data sample that prints in a few lines, draws itself, and turns into other formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_area

from pe_spatial.common.errors import OptionError, UserError, few
from pe_spatial.common.pictures import save_image
from pe_spatial.data import decode_masks, encode_masks, mask_areas
from pe_spatial.data.sample import IGNORE_LABEL
from pe_spatial.visualization import class_names, draw_prediction
from pe_spatial.visualization.layout import PICTURE_SIZE

_LINES = 8  # of a printed sample
_CLASSES = 6  # named in its line about pixels
_THRESHOLD = 0.5
_SHARED = ("image", "dataset", "threshold")


class PredictedSample(BaseDataElement):
    """The prediction for one image: `pred_instances`, `pred_sem_seg`, `pred_panoptic`, `pred_depth` and the metainfo.

    Attributes:
        image: uint8 [3, H, W] RGB, the original image (not a copy); None where it is unknown.
        dataset: The metainfo of the training data: `classes`, `category_ids`, `palette`.
        threshold: Of `filter`; None before.
    """

    image: Tensor | None = None
    dataset: Mapping[str, Any] = MappingProxyType({})
    threshold: float | None = None

    @classmethod
    def of(cls, sample: BaseDataElement, image: Tensor | None, dataset: Mapping[str, Any]) -> PredictedSample:
        """A data sample of a model, together with the image and with what its labels mean."""
        predicted = cls(metainfo=sample.metainfo)
        predicted.image, predicted.dataset = image, dataset
        predicted.set_data(dict(sample.items()))
        return predicted

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - any field
        """Set a field, or what copies share; mmengine would make fields of that too, which `.to(device)` moves."""
        if name in _SHARED:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def new(self, *, metainfo: dict[str, Any] | None = None, **fields: Any) -> PredictedSample:
        """A sample of the same image; `.to`, `.cpu` and the like begin with it."""
        other: Any = super().new(metainfo=metainfo, **fields)
        for name in _SHARED:
            setattr(other, name, getattr(self, name))
        return other

    def clone(self) -> PredictedSample:
        """A copy; the image is shared."""
        return self.new()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label; empty where the dataset has none."""
        return tuple(self.dataset.get("classes") or ())

    # --- other forms --------------------------------------------------------------------------------------------------
    def filter(self, threshold: float) -> PredictedSample:
        """The sample without the instances that score less; everything else stays.

        Raises:
            OptionError: A threshold that is no score.
        """
        checked_threshold(threshold)
        kept = self.new()
        if "pred_instances" in self:
            kept.pred_instances = self.pred_instances[self.pred_instances.scores >= threshold]
        kept.threshold = threshold
        return kept

    def draw(self, threshold: float | None = None, longest: int = PICTURE_SIZE) -> NDArray[np.uint8]:
        """The image with its prediction; see `draw_prediction`.

        Args:
            threshold: Instances that score less are left out. None takes that of `filter`, else 0.5.
            longest: Pixels of the longer side at most.

        Returns:
            uint8 [H', W', 3] RGB. Small images are enlarged and large ones reduced, by a whole factor.

        Raises:
            UserError: The sample has no image.
        """
        if self.image is None:
            raise UserError(f"{self._name()} has no image to draw on; use the sample that a Predictor returns")
        if threshold is None:
            threshold = _THRESHOLD if self.threshold is None else self.threshold
        drawn = draw_prediction(self.image, self, self.dataset, threshold, longest)
        return drawn.permute(1, 2, 0).contiguous().numpy()

    def save(self, path: str | Path, threshold: float | None = None, longest: int = PICTURE_SIZE) -> Path:
        """Write what `draw` returns as a picture, whole or not at all.

        Args:
            path: Where to; the suffix chooses the format.
            threshold: As for `draw`.
            longest: As for `draw`.

        Returns:
            The path.

        Raises:
            PictureError: The suffix is that of no picture.
            UserError: As `draw` says.
        """
        target = Path(path)
        save_image(target, self.draw(threshold, longest))
        return target

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """The instances as COCO's results: `category_id` of the training data, `bbox` [x, y, width, height], `score`.

        Models with masks add `segmentation`, a compressed RLE. `area` is the mask's, else the box's.

        Args:
            image_id: Of the image in the annotation file.

        Raises:
            UserError: The sample has no instances.
        """
        rows = instance_rows(self._instances("to_coco"))
        ids = self.dataset.get("category_ids") or range(1, 1 + max((row["label"] for row in rows), default=0) + 1)
        return [{"image_id": image_id, "category_id": int(ids[row.pop("label")]), **row} for row in rows]

    def to_supervision(self) -> Any:  # noqa: ANN401 - supervision is optional
        """The instances as `supervision.Detections`, with `class_name` in its `data`.

        Raises:
            UserError: The package `supervision` is not installed; or the sample has no instances.
        """
        arrays = self.to_arrays()
        try:
            import supervision
        except ImportError:
            raise UserError("to_supervision needs the package supervision; pip install supervision") from None
        return supervision.Detections(**arrays)

    def to_arrays(self) -> dict[str, Any]:
        """The instances as arrays, under the names of `supervision.Detections`.

        Returns:
            `xyxy` float32 [N, 4], `mask` bool [N, H, W] or None, `confidence` float32 [N], `class_id` int64 [N] and
            `data` with `class_name`, text [N].

        Raises:
            UserError: The sample has no instances.
        """
        found = self._instances("to_arrays")
        names = np.array(class_names(self.dataset, found.labels), dtype=np.str_)
        return {
            "xyxy": found.bboxes.float().numpy(),
            "mask": decode_masks(found.masks, self._size()).numpy() if "masks" in found else None,
            "confidence": found.scores.float().numpy(),
            "class_id": found.labels.numpy(),
            "data": {"class_name": names[found.labels.numpy()]},
        }

    def _size(self) -> tuple[int, int] | None:
        """(H, W) of the image; None where nothing says it."""
        size = self.metainfo.get("ori_shape") if self.image is None else self.image.shape[-2:]
        return None if size is None else (int(size[0]), int(size[1]))

    def _instances(self, asked: str) -> Any:  # noqa: ANN401 - mmengine's InstanceData
        if "pred_instances" not in self:
            raise UserError(f"{asked}: {self._name()} has no instances; it holds {', '.join(sorted(self.keys()))}")
        return self.pred_instances.to("cpu")

    # --- text ---------------------------------------------------------------------------------------------------------
    def __repr__(self) -> str:
        """At most eight lines: the image and what was found on it."""
        sample = self.cpu()
        height, width = self.metainfo.get("ori_shape", ("?", "?"))[:2]
        lines = [f"{self._name()}: {height} x {width} pixels (H x W)"]
        if "pred_depth" in sample:
            depth = sample.pred_depth.data.float()
            span = f"{depth.min():.3g} to {depth.max():.3g}"
            is_metric = sample.get("depth_is_metric", True)
            lines.append(f"depth: {span} m" if is_metric else f"relative depth: {span}, no unit")
        if "pred_panoptic" in sample:
            shares: Counter[int] = Counter()
            for segment in sample.segments:
                shares[int(segment["label"])] += int(segment["area"])
            lines.append(f"{len(sample.segments)} segments: {self._describe_areas(shares, sample.pred_panoptic.data)}")
        if "pred_sem_seg" in sample:
            labels = sample.pred_sem_seg.data
            values, counts = labels.unique(return_counts=True)
            areas = dict(zip(values.tolist(), counts.tolist(), strict=True))
            if len(self.classes) <= IGNORE_LABEL:
                areas.pop(IGNORE_LABEL, None)
            lines.append(f"{len(areas)} classes: {self._describe_areas(areas, labels)}")
        if "pred_instances" in sample:
            lines += self._describe_instances(sample.pred_instances, _LINES - len(lines))
        return "\n".join(lines)

    def _name(self) -> str:
        path = self.metainfo.get("img_path")
        return Path(path).name if path else "image"

    def _describe_areas(self, areas: Mapping[int, int], labels: Tensor) -> str:
        ordered = sorted(areas, key=lambda label: -areas[label])
        names = class_names(self.dataset, torch.tensor(ordered))
        return few((f"{names[label]} {areas[label] / labels.numel():.1%}" for label in ordered), _CLASSES)

    def _describe_instances(self, found: Any, lines: int) -> list[str]:  # noqa: ANN401 - mmengine's InstanceData
        found = found[found.scores.argsort(descending=True, stable=True)]
        names = class_names(self.dataset, found.labels)
        count = len(found) if len(found) < lines else lines - 2
        described = [f"{len(found)} instance{'' if len(found) == 1 else 's'}" + (":" if count else "")]
        columns = zip(found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), strict=True)
        for label, score, box in list(columns)[:count]:
            described.append(f"  {names[label]} {score:.2f} [{', '.join(f'{value:.1f}' for value in box)}]")
        return described + ([f"  … and {len(found) - count} more"] if count < len(found) else [])


def checked_threshold(threshold: float) -> float:
    """A lowest score.

    Raises:
        OptionError: It is none.
    """
    if not 0 <= threshold <= 1:
        raise OptionError(f"threshold {threshold} is not a score; give a number from 0 to 1")
    return threshold


def instance_rows(instances: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - mmengine's InstanceData
    """Instances as JSON has them in COCO's formats, in the pixels of the original image.

    Returns:
        For every instance `label`, `bbox` [x, y, width, height], `score`, `area` and, where there are masks,
        `segmentation` as compressed RLE; without masks the area is the box's.
    """
    found = instances.to("cpu")
    rows: list[dict[str, Any]] = [
        {"label": label, "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)], "score": round(score, 5)}
        for (x1, y1, x2, y2), score, label in zip(
            found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ]
    if "masks" not in found:
        areas = box_area(found.bboxes).tolist()
        return [{**row, "area": round(area, 2)} for row, area in zip(rows, areas, strict=True)]
    rles = encode_masks(found.masks)
    return [
        {**row, "area": area, "segmentation": rle} for row, area, rle in zip(rows, mask_areas(rles), rles, strict=True)
    ]
