"""The picture of a prediction or of labels, whatever the task."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from pe_spatial.data.sample import IGNORE_LABEL
from pe_spatial.visualization.class_colors import class_colors
from pe_spatial.visualization.classes import draw_classes
from pe_spatial.visualization.depth import LEGEND_HEIGHT, depth_picture
from pe_spatial.visualization.depth_errors import draw_errors
from pe_spatial.visualization.instances import draw_boxes, draw_instances
from pe_spatial.visualization.layout import LONGEST, PICTURE_SIZE, beside, enlarge, reduce_thin, reduced, row, thinned


def draw_prediction(
    image: Tensor,
    sample: BaseDataElement,
    metainfo: Mapping[str, Any],
    threshold: float = 0.5,
    longest: int = PICTURE_SIZE,
) -> Tensor:
    """Draw what a data sample holds: segments, else classes of pixels, else instances; and beside it depth.

    Args:
        image: uint8 [3, H, W], the original image.
        sample: A prediction in the frame of that image.
        metainfo: Of the dataset: `classes`, and optionally `palette` [[r, g, b], …].
        threshold: Instances with a lower score are left out.
        longest: Larger images are reduced by a whole factor to at most this many pixels on the longer side.

    Returns:
        uint8 [3, H', W']. Small images are enlarged by a whole factor.
    """
    sample = sample.cpu()
    if "pred_panoptic" in sample:
        picture = _draw_segments(image, sample.pred_panoptic.data[0], sample.segments, metainfo, longest)
    elif "pred_sem_seg" in sample:
        picture = _draw_labels(image, sample.pred_sem_seg.data.reshape(image.shape[-2:]), metainfo, longest)
    elif "pred_instances" in sample:
        names = class_names(metainfo, sample.pred_instances.labels)
        plain, colors = image.as_subclass(Tensor), metainfo.get("palette")
        picture = draw_instances(plain, sample.pred_instances, names, threshold, colors, longest)
    else:
        picture = enlarge(reduced(image.as_subclass(Tensor).cpu(), longest))[0]
    if "pred_depth" in sample:
        depth = depth_picture(sample.pred_depth.data, is_metric=sample.get("depth_is_metric", True), longest=longest)
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
        gray, unlabeled = picture.float().mean(0, keepdim=True) * 0.4, labels == IGNORE_LABEL
        if "masks" in plain:
            unlabeled = unlabeled & ~plain["masks"].bool().any(0)
        picture = torch.where(unlabeled, gray, picture).round().to(torch.uint8)
        if "masks" in plain:
            _set_segments(drawn, labels.reshape(picture.shape[-2:]), plain["masks"], plain["labels"])
        else:
            drawn.pred_sem_seg = PixelData(data=labels)
    elif "boxes" in plain:
        instances = {"bboxes": plain["boxes"], "labels": plain["labels"], "masks": plain.get("masks")}
        drawn.pred_instances = InstanceData(**{key: value for key, value in instances.items() if value is not None})
    if "depth" in plain:
        drawn.pred_depth = PixelData(data=plain["depth"])
    result = draw_prediction(picture, drawn, metainfo)
    if labels is None or "boxes" not in plain or "masks" in plain:
        return result
    names, numbers = class_names(metainfo, plain["labels"]), plain["labels"].tolist()
    scale, by_class = result.shape[-2] / picture.shape[-2], class_colors(names, metainfo.get("palette"))
    colors = [(red, green, blue) for red, green, blue in (by_class[number] for number in numbers)]
    return draw_boxes(result, plain["boxes"] * scale, [names[number] for number in numbers], colors)


def draw_compared(
    image: Tensor,
    labels: Mapping[str, Tensor],
    sample: BaseDataElement,
    metainfo: Mapping[str, Any],
    threshold: float = 0.5,
) -> Tensor:
    """The annotation beside the prediction; of metric depth on one color scale, with the error.

    Args:
        image: uint8 [3, H, W].
        labels: Those of the image, see `draw_labels`; without any, the prediction is alone.
        sample: The prediction.
        metainfo: Of the dataset; see `draw_prediction`.
        threshold: Instances with a lower score are left out.

    Returns:
        uint8 [3, H', W'].
    """
    measured = labels.get("depth")
    if measured is not None and "pred_depth" in sample and sample.get("depth_is_metric", True) and measured.any():
        return draw_errors(image, measured, sample.pred_depth.data.cpu())
    picture = draw_prediction(image, sample, metainfo, threshold)
    if not labels:
        return picture
    return row({"annotation": draw_labels({"img": image, **labels}, metainfo), "prediction": picture})


def _set_segments(sample: BaseDataElement, labels: Tensor, masks: Tensor, of_mask: Tensor) -> None:
    """Give a sample the segments of an annotation: a thing for each mask, and below them the classes of pixels."""
    count = len(masks)
    ids = torch.where(labels == IGNORE_LABEL, 0, labels.long() + count + 1)
    for number, mask in enumerate(masks, 1):
        ids[mask.bool()] = number
    kept = [number for number in ids.unique().tolist() if number]
    of_thing = of_mask.tolist()
    sample.pred_panoptic = PixelData(data=ids[None])
    sample.set_metainfo(
        {
            "segments": [
                {"id": n, "label": of_thing[n - 1] if n <= count else n - count - 1, "is_thing": n <= count}
                for n in kept
            ]
        }
    )


def _draw_segments(
    image: Tensor, ids: Tensor, segments: Sequence[Mapping[str, Any]], metainfo: Mapping[str, Any], longest: int
) -> Tensor:
    """Segments by class, those of things numbered in their order."""
    image, ids = reduced(image.cpu(), longest), thinned(ids, longest).long()
    label_of = torch.full((1 + max((int(segment["id"]) for segment in segments), default=0),), -1)
    for segment in segments:
        label_of[segment["id"]] = segment["label"]
    is_thing = dict(enumerate(metainfo.get("is_thing") or ()))
    things = [
        int(segment["id"]) for segment in segments if segment.get("is_thing", is_thing.get(int(segment["label"]), True))
    ]
    return _draw_labels(image, label_of[ids], metainfo, longest, ids, things)


def _draw_labels(
    image: Tensor,
    labels: Tensor,
    metainfo: Mapping[str, Any],
    longest: int,
    regions: Tensor | None = None,
    numbered: Sequence[int] = (),
) -> Tensor:
    # labels without a name are not tinted, so only a dataset without names needs to be told how many there are
    names = list(metainfo.get("classes") or class_names({}, labels[labels != 255]))
    colors = class_colors(names, metainfo.get("palette"))
    return draw_classes(image.cpu(), labels, names, colors, regions, longest, numbered)


def class_names(metainfo: Mapping[str, Any], labels: Tensor) -> list[str]:
    """The names of the classes of a dataset, and of labels beyond them `class 7`."""
    names = list(metainfo.get("classes") or ())
    return names + [f"class {label}" for label in range(len(names), int(labels.max()) + 1 if labels.numel() else 0)]
