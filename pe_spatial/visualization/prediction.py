"""The picture of a prediction or of labels, whatever the task."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from pe_spatial.data.sample import IGNORE_LABEL
from pe_spatial.visualization.classes import draw_classes, thinned
from pe_spatial.visualization.colors import palette
from pe_spatial.visualization.depth import LEGEND_HEIGHT, depth_picture
from pe_spatial.visualization.instances import draw_boxes, draw_instances
from pe_spatial.visualization.layout import LONGEST, beside, enlarge, reduce_thin


def draw_prediction(
    image: Tensor, sample: BaseDataElement, metainfo: Mapping[str, Any], threshold: float = 0.5
) -> Tensor:
    """Draw what a data sample holds: segments, else classes of pixels, else instances; and beside it depth.

    Args:
        image: uint8 [3, H, W], the original image.
        sample: A prediction in the frame of that image.
        metainfo: Of the dataset: `classes`, and optionally `palette` [[r, g, b], …].
        threshold: Instances with a lower score are left out.

    Returns:
        uint8 [3, H', W']. Small images are enlarged by a whole factor, and large class maps are downsampled.
    """
    sample = sample.cpu()
    if "pred_panoptic" in sample:
        image, ids = thinned(image), thinned(sample.pred_panoptic.data)[0].long()
        label_of = torch.full((1 + max((int(segment["id"]) for segment in sample.segments), default=0),), -1)
        for segment in sample.segments:
            label_of[segment["id"]] = segment["label"]
        picture = _draw_labels(image, label_of[ids], metainfo, ids)
    elif "pred_sem_seg" in sample:
        picture = _draw_labels(image, sample.pred_sem_seg.data.reshape(image.shape[-2:]), metainfo, None)
    elif "pred_instances" in sample:
        names = class_names(metainfo, sample.pred_instances.labels)
        picture = draw_instances(image.as_subclass(Tensor), sample.pred_instances, names, threshold)
    else:
        picture = enlarge(image.as_subclass(Tensor).cpu())[0]
    if "pred_depth" in sample:
        depth = depth_picture(sample.pred_depth.data, is_metric=sample.get("depth_is_metric", True))
        picture = reduce_thin(picture, LEGEND_HEIGHT)
        height, width = depth.shape[-2], picture.shape[-1] * depth.shape[-2] // picture.shape[-2]
        picture = beside(TF.resize(picture, [height, width]) if 0 < width <= LONGEST else picture, depth)
    return picture


def draw_labels(sample: Mapping[str, Any], metainfo: Mapping[str, Any]) -> Tensor:
    """Draw the labels of a loaded sample as predictions are drawn; pixels without a label become gray and dark.

    Args:
        sample: `img` uint8 [3, H, W], and where they exist `boxes`, `labels`, `masks` bool [N, H, W], `sem_seg` and
            `depth`, as `pe_spatial.data.sample` defines them.
        metainfo: Of the dataset; see `draw_prediction`.
    """
    plain = {key: value.as_subclass(Tensor) for key, value in sample.items() if isinstance(value, Tensor)}
    picture, labels, drawn = plain["img"], plain.get("sem_seg"), BaseDataElement()
    if labels is not None:
        gray = picture.float().mean(0, keepdim=True) * 0.4
        picture = torch.where(labels == IGNORE_LABEL, gray, picture).round().to(torch.uint8)
        drawn.pred_sem_seg = PixelData(data=labels)
    elif "boxes" in plain:
        instances = {"bboxes": plain["boxes"], "labels": plain["labels"], "masks": plain.get("masks")}
        drawn.pred_instances = InstanceData(**{key: value for key, value in instances.items() if value is not None})
    if "depth" in plain:
        drawn.pred_depth = PixelData(data=plain["depth"])
    result = draw_prediction(picture, drawn, metainfo)
    if labels is None or "boxes" not in plain:
        return result
    names, numbers = class_names(metainfo, plain["labels"]), plain["labels"].tolist()
    scale = result.shape[-2] / picture.shape[-2]
    return draw_boxes(result, plain["boxes"] * scale, [names[number] for number in numbers], numbers)


def _draw_labels(image: Tensor, labels: Tensor, metainfo: Mapping[str, Any], regions: Tensor | None) -> Tensor:
    # labels without a name are not tinted, so only a dataset without names needs to be told how many there are
    names = list(metainfo.get("classes") or class_names({}, labels[labels != 255]))
    colors = list(metainfo.get("palette") or ())
    colors += palette(len(names) + 1)[1 + len(colors) :].tolist()
    return draw_classes(image.cpu(), labels, names, colors, regions)


def class_names(metainfo: Mapping[str, Any], labels: Tensor) -> list[str]:
    """The names of the classes of a dataset, and of labels beyond them `class 7`."""
    names = list(metainfo.get("classes") or ())
    return names + [f"class {label}" for label in range(len(names), int(labels.max()) + 1 if labels.numel() else 0)]
