"""Panoptic quality (Kirillov et al., arXiv:1801.00868), counted as COCO's panopticapi does.

A prediction and a segment match if they have one class and an IoU above one half. The union leaves out the pixels of
the prediction of which nothing is known (void), and nothing else: those on a crowd stay in it. A crowd matches nothing
and cannot be missed. A prediction without a match is not counted as false if more than half of it lies in void and the
crowd of its own class. Where an image has several crowds of one class, that is the last of them, as in panopticapi.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS
from torch import Tensor

from pe_spatial.common.errors import ConfigError
from pe_spatial.data import require_bitmaps
from pe_spatial.data.sample import check_frame
from pe_spatial.segmentation.mask_decoder.targets import segments_of
from pe_spatial.segmentation.metrics import class_table

# rows of a tally: sum of the IoUs of matches, matches, unmatched predictions, unmatched truth
_IOU, _MATCHED, _FALSE, _MISSED = range(4)


class Truth(NamedTuple):
    """The segments of an image, no two of which share a pixel.

    Args:
        ids: [H, W], the number of the segment, from 1; 0 where nothing is known.
        labels: Of the segments, int64 [G].
        is_crowd: bool [G].
    """

    ids: Tensor
    labels: Tensor
    is_crowd: Tensor


@METRICS.register_module()
class PanopticMetric(BaseMetric):
    """PQ, SQ and RQ in percent, of all classes, of things and of stuff: means over the classes that occur.

    The numbers are panopticapi's (see this module). All area of a stuff class in an image is one segment, as COCO's
    format has it.

    The results are called `panoptic/PQ`, `…/SQ`, `…/RQ`, and the same with `_things` and `_stuff`.
    """

    default_prefix = "panoptic"
    headline = ("PQ", "PQ_things", "PQ_stuff")

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Judge predictions in the frame of their annotation.

        Args:
            data_batch: Not used.
            data_samples: With `pred_panoptic` [1, H, W], `segments`, and `gt_sem_seg`, `gt_instances` or both; crowds
                are in `ignored_instances`.

        Raises:
            ConfigError: The dataset does not say which classes are things; or no panoptic prediction, or one of
                another size than the annotation; or crowds without labels.
        """
        things = self._things()
        for sample in data_samples:
            name = sample.get("img_path")
            if "pred_panoptic" not in sample:
                raise ConfigError(f"{name}: no panoptic prediction; add 'panoptic' to model.outputs")
            predicted = sample["pred_panoptic"]["data"][0]
            truth = self._truth(sample, predicted, things)
            self.results.append(tally(predicted, sample["segments"], truth, len(self.dataset_meta["classes"])))

    def _truth(self, sample: Mapping[str, Any], predicted: Tensor, things: Collection[int]) -> Truth:
        size = (predicted.shape[0], predicted.shape[1])
        sem_seg = sample["gt_sem_seg"]["data"][0] if "gt_sem_seg" in sample else None
        found = sample.get("gt_instances")
        name = sample.get("img_path")
        instances = None if found is None else (found["labels"], require_bitmaps(found, name, "the metric"))
        crowds = _crowds(sample)
        for part in (sem_seg, None if instances is None else instances[1]):
            if part is not None:
                check_frame(sample.get("img_path"), predicted, part, "annotation")
        found = segments_of(size, things, sem_seg, instances, crowds)
        labels, masks = found.labels, found.masks
        is_crowd = torch.zeros(len(labels), dtype=torch.bool)
        if crowds is not None:
            labels, masks = torch.cat([crowds[0], labels]), torch.cat([crowds[1], masks])
            is_crowd = torch.cat([torch.ones(len(crowds[0]), dtype=torch.bool), is_crowd])
        ids = torch.zeros(size, dtype=torch.int64, device=found.valid.device)
        for number, mask in enumerate(masks, start=1):  # what comes later lies on top
            ids[mask] = number
        ids[~found.valid] = 0
        return Truth(ids.to(predicted.device), labels, is_crowd)

    def _things(self) -> frozenset[int]:
        if "is_thing" not in self.dataset_meta:
            raise ConfigError(
                f"{type(self).__name__} needs 'is_thing', one truth value by class, in the dataset's metainfo; use "
                "CocoPanoptic or InstanceLabels, or set dataset.metainfo.is_thing"
            )
        return frozenset(label for label, is_thing in enumerate(self.dataset_meta["is_thing"]) if is_thing)

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """The measures from the summed tallies.

        Raises:
            ConfigError: No class occurs.
        """
        total = torch.stack(results).sum(0)
        things, classes = self._things(), self.dataset_meta["classes"]
        quality = panoptic_quality(total)  # [3, K]
        if quality[0].isnan().all():
            raise ConfigError(f"none of the {len(results)} images has a segment, true or predicted")
        columns = dict(zip(("PQ", "SQ", "RQ"), quality, strict=True))
        print_log(class_table(classes, columns), logger="current")
        is_thing = torch.tensor([label in things for label in range(len(classes))])
        groups = {"": is_thing | ~is_thing, "_things": is_thing, "_stuff": ~is_thing}
        return {
            f"{name}{suffix}": column[group].nanmean().item()
            for suffix, group in groups.items()
            if group.any()
            for name, column in columns.items()
        }


def _crowds(sample: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    ignored = sample.get("ignored_instances", {})
    if "masks" not in ignored:
        return None
    if "labels" not in ignored:
        raise ConfigError(
            f"{sample.get('img_path')}: ignored_instances has masks but no labels, and a crowd counts for its own "
            "class alone; a loader that sets ignored_masks must set ignored_labels too"
        )
    return ignored["labels"], require_bitmaps(ignored, sample.get("img_path"), "the metric")


def tally(predicted: Tensor, segments: Sequence[Mapping[str, Any]], truth: Truth, num_classes: int) -> Tensor:
    """Count one image.

    Args:
        predicted: Segment ids [H, W], 0 where nothing was found.
        segments: `id` and `label` of every predicted segment.
        truth: The annotation.
        num_classes: K.

    Returns:
        float64 [4, K] on the CPU: per class the sum of the IoUs of matches, their number, and the numbers of unmatched
        predictions and of unmatched true segments.
    """
    result = torch.zeros(4, num_classes, dtype=torch.float64)
    count = max([int(predicted.max()), *(segment["id"] for segment in segments)]) + 1
    true_count = len(truth.labels) + 1
    pairs = predicted.long() * true_count + truth.ids.long()
    overlap = torch.bincount(pairs.flatten(), minlength=count * true_count).reshape(count, true_count).double().cpu()
    area, true_area = overlap.sum(1), overlap.sum(0)
    label_of = dict(enumerate(truth.labels.tolist(), start=1))
    is_crowd = dict(enumerate(truth.is_crowd.tolist(), start=1))
    objects = [number for number in label_of if not is_crowd[number] and true_area[number] > 0]
    crowd_of = {label: number for number, label in label_of.items() if is_crowd[number]}  # the last of a class
    missed = set(objects)
    for segment in segments:
        row, label, whole = overlap[segment["id"]], segment["label"], area[segment["id"]]
        iou = row / (whole - row[0] + true_area - row).clamp_min(1)
        hits = [number for number in objects if label_of[number] == label and iou[number] > 0.5]
        forgiven = row[0] + (row[crowd_of[label]] if label in crowd_of else 0)
        if hits:  # never more than one: two halves leave no room
            result[_IOU, label] += iou[hits[0]]
            result[_MATCHED, label] += 1
            missed.discard(hits[0])
        elif whole > 0 and forgiven <= 0.5 * whole:
            result[_FALSE, label] += 1
    for number in missed:
        result[_MISSED, label_of[number]] += 1
    return result


def panoptic_quality(total: Tensor) -> Tensor:
    """PQ, SQ and RQ in percent, [3, K], from summed tallies [4, K]; NaN for classes that do not occur."""
    iou, matched, false, missed = total
    occurs = matched + false + missed > 0
    recognition = matched / (matched + false / 2 + missed / 2)
    segmentation = torch.where(matched > 0, iou / matched.clamp_min(1), torch.zeros_like(iou))
    quality = 100 * torch.stack([segmentation * recognition, segmentation, recognition])
    return torch.where(occurs, quality, torch.nan)
