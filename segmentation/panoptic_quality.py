"""The metric of panoptic segmentation; see `panoptic_matching` for its rules."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.registry import METRICS
from torch import Tensor

from pe_spatial.common.errors import ConfigError
from pe_spatial.data import require_bitmaps
from pe_spatial.data.sample import check_frame
from pe_spatial.segmentation.mask_decoder.targets import segments_of
from pe_spatial.segmentation.metrics import class_table
from pe_spatial.segmentation.panoptic_explanation import (
    IMAGE_PQ,
    PANOPTIC_MEASURES,
    Segmented,
    confused_pairs,
    draw_segments,
    explain,
)
from pe_spatial.segmentation.panoptic_matching import Truth, count_matches, match, panoptic_quality
from pe_spatial.training.explanation import ExplainedMetric


@METRICS.register_module()
class PanopticMetric(ExplainedMetric):
    """PQ, SQ and RQ in percent, of all classes, of things and of stuff: means over the classes that occur.

    The numbers are panopticapi's (see `panoptic_matching`). All area of a stuff class in an image is one segment, as
    COCO's format has it.

    The results are called `panoptic/PQ`, `…/SQ`, `…/RQ`, and the same with `_things` and `_stuff`.
    """

    default_prefix = "panoptic"
    headline = ("PQ", "PQ_things", "PQ_stuff")
    measures = PANOPTIC_MEASURES
    image_measure = IMAGE_PQ

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
            matches, missed = match(predicted, sample["segments"], truth)
            counts = count_matches(matches, missed, truth, len(self.dataset_meta["classes"]))
            score = float(panoptic_quality(counts)[0].nanmean()) / 100
            segmented = Segmented.of(predicted, truth, matches, missed)
            self.keep(sample, score, segmented, tally=counts, pairs=confused_pairs(matches, missed, truth))

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

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """The measures from the summed tallies.

        Raises:
            ConfigError: No class occurs.
        """
        total = torch.stack([result["tally"] for result in results]).sum(0)
        things, classes = self._things(), self.dataset_meta["classes"]
        quality = panoptic_quality(total)  # [3, K]
        if quality[0].isnan().all():
            raise ConfigError(f"none of the {len(results)} images has a segment, true or predicted")
        columns = dict(zip(("PQ", "SQ", "RQ"), quality, strict=True))
        print_log(class_table(classes, columns), logger="current")
        is_thing = torch.tensor([label in things for label in range(len(classes))])
        groups = {"": is_thing | ~is_thing, "_things": is_thing, "_stuff": ~is_thing}
        metrics = {
            f"{name}{suffix}": column[group].nanmean().item()
            for suffix, group in groups.items()
            if group.any()
            for name, column in columns.items()
        }
        ends = self.rank(results, lambda segmented, image: draw_segments(image, segmented, classes))
        self.explanation = explain(total, [result["pairs"] for result in results], classes, ends)
        return metrics


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
