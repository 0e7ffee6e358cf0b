"""Mean intersection over union."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.registry import METRICS
from torch import Tensor

from pe_spatial.common.errors import ConfigError
from pe_spatial.data.sample import check_frame
from pe_spatial.segmentation.explanation import (
    IMAGE_MIOU,
    IOU_MEASURES,
    draw_pixels,
    label_pairs,
    pixel_confusion,
    small_integers,
)
from pe_spatial.training.explanation import UNDEFINED, ClassTable, Confusion, ExplainedMetric, Explanation


@METRICS.register_module()
class MeanIoUMetric(ExplainedMetric):
    """mIoU, mean class accuracy and pixel accuracy in percent, over all pixels of a dataset that have a label.

    The numbers are those of mmseg's IoUMetric, which counts in float32 and rounds to two decimals; here pixels are
    integers. A class that neither occurs in the labels nor was predicted has no IoU and is left out of the mean; one
    that was only predicted has an IoU of 0, and no accuracy. The table of all classes goes to the log.

    The results are called `seg/mIoU`, `seg/mAcc` and `seg/aAcc`.
    """

    default_prefix = "seg"
    headline = ("mIoU", "aAcc")
    measures = IOU_MEASURES
    image_measure = IMAGE_MIOU

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of predictions in the frame of their labels.

        Args:
            data_batch: Not used.
            data_samples: With `pred_sem_seg` and `gt_sem_seg`, data [1, H, W] of one size.

        Raises:
            ConfigError: No label, another size than the label, or a class that the dataset does not have.
        """
        classes = self.dataset_meta["classes"]
        for sample in data_samples:
            name = sample.get("img_path")
            if "gt_sem_seg" not in sample:
                raise ConfigError(f"{name}: no label map; add LoadSegmentation to the validation pipeline")
            prediction, target = (sample[key]["data"] for key in ("pred_sem_seg", "gt_sem_seg"))
            check_frame(name, prediction, target, "label map")
            target = target.to(prediction.device)
            pairs = label_pairs(prediction, target, len(classes), name)
            score = float(ious(class_areas(pairs, len(classes))).nanmean())
            material = small_integers(target[0]), small_integers(prediction[0])
            self.keep(sample, score, material, pairs=pairs)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """The three numbers from the summed areas.

        Raises:
            ConfigError: No pixel has a label.
        """
        meta = dict(self.dataset_meta or {})
        classes = meta["classes"]
        confusion = pixel_confusion([result["pairs"] for result in results], len(classes))  # [K, K]
        correct, predicted, labeled = (
            confusion.diagonal().double(),
            confusion.sum(0).double(),
            confusion.sum(1).double(),
        )
        if labeled.sum() == 0:
            raise ConfigError(f"none of the {len(results)} label maps has a labeled pixel; check the label files")
        iou = 100 * ious(torch.stack([correct, predicted, labeled]))  # [K]
        accuracy = 100 * correct / labeled
        share = 100 * labeled / labeled.sum()
        print_log(class_table(classes, {"IoU": iou, "acc": accuracy, "pixels": share}), logger="current")
        metrics = {
            "mIoU": iou.nanmean().item(),
            "mAcc": accuracy.nanmean().item(),
            "aAcc": (100 * correct.sum() / labeled.sum()).item(),
        }
        values = {"IoU": iou.tolist(), "acc": accuracy.tolist()}
        rule = "the pixels of a class by what they were predicted to be"
        self.explanation = Explanation(
            ClassTable(classes, labeled.long().tolist(), "pixels", values, self.measures),
            Confusion(confusion.numpy(), classes, classes, "pixels", rule),
            self.rank(results, lambda labels, image: draw_pixels(image, labels[0], labels[1], meta)),
        )
        return metrics


def ious(areas: Tensor) -> Tensor:
    """Intersection over union [K] from areas [3, K] of `class_areas`; NaN where a class does not occur."""
    correct, predicted, labeled = areas
    return correct / (labeled + predicted - correct)


def class_areas(pairs: Tensor, num_classes: int) -> Tensor:
    """Pixels of each class, float64 [3, K]: predicted rightly, predicted, labeled.

    Args:
        pairs: Of `label_pairs`.
        num_classes: K.
    """
    codes, pixels = pairs[0], pairs[1].double()
    target, prediction = codes // num_classes, codes % num_classes
    right = target == prediction
    groups = ((target[right], pixels[right]), (prediction, pixels), (target, pixels))
    return torch.stack([torch.bincount(group, counts, num_classes) for group, counts in groups])


def class_table(classes: Sequence[str], columns: Mapping[str, Tensor]) -> str:
    """Percentages [K] by class, a column for each; NaN is a dash."""
    width = max(len("class"), *map(len, classes))
    rows = [f"{'class':<{width}}" + "".join(f"  {title:>6}" for title in columns)]
    for name, *values in zip(classes, *(column.tolist() for column in columns.values()), strict=True):
        cells = (f"  {value:6.2f}" if value == value else f"  {UNDEFINED:>6}" for value in values)
        rows.append(f"{name:<{width}}" + "".join(cells))
    return "\n" + "\n".join(rows)
