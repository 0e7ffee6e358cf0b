"""What the numbers of segmentation mean, what is mistaken for what, and pictures of truth, prediction and errors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pe_spatial.common.errors import ConfigError
from pe_spatial.data.sample import IGNORE_LABEL
from pe_spatial.training.explanation import Measure, percent
from pe_spatial.visualization import class_colors, draw_classes
from pe_spatial.visualization.judged import LONGEST_PANEL, VERDICT_COLORS, verdict_pixels, with_legend
from pe_spatial.visualization.layout import row, thinned

_AT_ONCE = 2**18  # pixels that are counted at a time
_LOW_BITS = 2**32 - 1  # of a pair of labels: the prediction

IOU_MEASURES: dict[str, Measure] = {
    "mIoU": percent("mean IoU", "intersection over union of each class over all pictures, mean over the classes", 100),
    "mAcc": percent("mean accuracy", "share of the pixels of each class that are right, mean over the classes", 100),
    "aAcc": percent("pixel accuracy", "share of all labeled pixels that are right", 100),
    "IoU": percent("IoU", "intersection over union: pixels of both truth and prediction over pixels of either", 100),
    "acc": percent("accuracy", "share of the pixels of the class that are right", 100),
}
IMAGE_MIOU = percent("mean IoU", "intersection over union, mean over the classes of the picture")


def label_pairs(prediction: Tensor, target: Tensor, num_classes: int, name: str | None = None) -> Tensor:
    """How often each pair of labels occurs, int64 [2, P] on the CPU: target · K + prediction, and the pixels.

    Only pairs that occur are listed: the table of all would fill the memory for many classes and images. They are
    counted by runs of one pair, which are much fewer than pixels.

    Args:
        prediction: Class indices.
        target: Labels of the same shape; pixels labeled 255 do not count.
        num_classes: K.
        name: Of the image, for messages.

    Raises:
        ConfigError: An index of K or more.
    """
    runs = []
    for some, truth in zip(*(labels.flatten().split(_AT_ONCE) for labels in (prediction, target)), strict=True):
        both = truth.long() << 32 | some.long() & _LOW_BITS
        runs.append(torch.stack(both.unique_consecutive(return_counts=True)))
    both, lengths = torch.cat(runs, dim=1)
    both, place = both.unique(return_inverse=True)
    pixels = torch.zeros_like(both).index_add_(0, place, lengths)
    counted = both >> 32 != IGNORE_LABEL
    truth, some = both[counted] >> 32, both[counted] & _LOW_BITS
    for kind, indices in (("label", truth), ("prediction", some)):
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < num_classes:
            raise ConfigError(
                f"{name}: {kind} {int(indices.max())} is outside 0…{num_classes - 1}, the classes of the dataset; "
                "set num_classes of the head to the number of these classes"
            )
    return torch.stack([truth * num_classes + some, pixels[counted]]).cpu()


def pixel_confusion(pairs: Sequence[Tensor], num_classes: int) -> Tensor:
    """Pixels by label and prediction, int64 [K, K], summed over the `label_pairs` of images."""
    total = torch.zeros(num_classes**2, dtype=torch.int64)
    for codes, counts in pairs:
        total[codes] += counts
    return total.reshape(num_classes, num_classes)


def small_integers(labels: Tensor) -> Tensor:
    """Labels on the CPU in as few bytes as they need: up to 40 label maps are held."""
    fits = labels.numel() == 0 or (int(labels.min()) >= 0 and int(labels.max()) <= 255)
    return labels.to(torch.uint8 if fits else torch.int32).cpu()


def draw_pixels(image: Tensor, target: Tensor, prediction: Tensor, metainfo: Mapping[str, Any]) -> Tensor:
    """Three panels: the labels, the prediction, and which pixels are right.

    Args:
        image: uint8 [3, H, W].
        target: Labels [H, W]; 255 is not judged.
        prediction: Class indices [H, W].
        metainfo: Of the dataset: `classes`, maybe `palette`.
    """
    image, target, prediction = (thinned(maps, LONGEST_PANEL) for maps in (image, target, prediction))
    target, prediction = target.long(), prediction.long()
    classes = metainfo["classes"]
    colors = class_colors(classes, metainfo.get("palette"))
    judged = target != IGNORE_LABEL
    right = target == prediction
    share = int((right & judged).sum()) / max(int(judged.sum()), 1)
    panels = {
        "annotation": draw_classes(image, target, classes, colors),
        "prediction": draw_classes(image, prediction, classes, colors),
        f"{100 * share:.1f} % of the labeled pixels are right": verdict_pixels(image, right, judged),
    }
    legend = [(VERDICT_COLORS["right"], "right"), (VERDICT_COLORS["false"], "wrong")]
    legend += [] if bool(judged.all()) else [(VERDICT_COLORS["unjudged"], "without a label")]
    return with_legend(row(panels), legend)
