"""What the numbers of segmentation mean, what is mistaken for what, and pictures of truth, prediction and errors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pe_spatial.data.sample import IGNORE_LABEL
from pe_spatial.training.explanation import Measure, percent
from pe_spatial.visualization import class_colors, draw_classes
from pe_spatial.visualization.judged import LONGEST_PANEL, VERDICT_COLORS, verdict_pixels, with_legend
from pe_spatial.visualization.layout import row, thinned

IOU_MEASURES: dict[str, Measure] = {
    "mIoU": percent("mean IoU", "intersection over union of each class over all pictures, mean over the classes", 100),
    "mAcc": percent("mean accuracy", "share of the pixels of each class that are right, mean over the classes", 100),
    "aAcc": percent("pixel accuracy", "share of all labeled pixels that are right", 100),
    "IoU": percent("IoU", "intersection over union: pixels of both truth and prediction over pixels of either", 100),
    "acc": percent("accuracy", "share of the pixels of the class that are right", 100),
}
IMAGE_MIOU = percent("mean IoU", "intersection over union, mean over the classes of the picture")


def label_pairs(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """How often each pair of labels occurs, int64 [2, P] on the CPU: target · K + prediction, and the pixels.

    Only pairs that occur are listed: the table of all would fill the memory for many classes and images.

    Args:
        prediction: Class indices.
        target: Labels of the same shape; pixels labeled 255 do not count.
        num_classes: K.
    """
    counted = target != IGNORE_LABEL
    codes = target[counted].long() * num_classes + prediction[counted].long()
    counts = torch.bincount(codes, minlength=1)
    occurring = counts.nonzero().flatten()
    return torch.stack([occurring, counts[occurring]]).cpu()


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
    image, target, prediction = (thinned(maps, LONGEST_PANEL) for maps in (image, target.long(), prediction.long()))
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
