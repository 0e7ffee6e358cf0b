"""Files to tv_tensors: images and instances; the maps of a task are loaded by its package.

Every loader is a pipeline step: it reads the record's keys named in `pe_spatial.data.sample` and adds the sample's.
Labels are in the frame of the decoded image (`ori_shape`), so a label loader may stand after the last resize of a
validation pipeline; a prediction is then judged at the resolution of its annotation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision import tv_tensors

from pe_spatial.common.contracts import Loader, exif_of
from pe_spatial.common.errors import AnnotationError, OptionError, require_choice
from pe_spatial.common.pictures import ValueRule, read_image, to_image
from pe_spatial.data.coco_masks import check_rle, rings_of
from pe_spatial.data.polygons import Outline, Polygons
from pe_spatial.data.sample import name_of


# --- images -----------------------------------------------------------------------------------------------------------
@TRANSFORMS.register_module()
class LoadImage(Loader):
    """`img_path` (or an `img` in memory, see `to_image`) to `img` and `ori_shape`.

    The EXIF orientation is applied, so pixels stand as a viewer shows them. Where a record has `height` and `width`
    they must be those of the image, for boxes and masks are drawn on that frame.

    Args:
        apply_exif: False for annotations that were made on the pixels as stored.
        max_pixels: Larger images are refused; None: those that the memory does not hold.
        value_range: (black, white) of files of more than 8 bits, such as [0, 4095]. None takes that of the dataset's
            metainfo, or the default of `ValueRule`.
        bands: The bands that are red, green and blue, or the one that is gray, counted from 1. None likewise.
    """

    needs_labels = False

    def __init__(
        self,
        apply_exif: bool = True,
        max_pixels: int | None = None,
        value_range: Sequence[float] | None = None,
        bands: Sequence[int] | None = None,
    ) -> None:
        self.apply_exif = apply_exif
        self.max_pixels = max_pixels
        self.rule = ValueRule.of(value_range, bands)

    def check_dataset(self, dataset: Any) -> None:
        """Take the rule of the dataset.

        Raises:
            OptionError: This step states another one.
        """
        for name in ("value_range", "bands"):
            own, given = getattr(self.rule, name), dataset.metainfo.get(name)
            if own is not None and given is not None and list(own) != list(given):
                raise OptionError(
                    f"{name} is {list(own)} in LoadImage and {list(given)} in {dataset.ann_file}; set it in only one "
                    f"of them"
                )
        self.adopt_rule(dataset.metainfo)

    def adopt_rule(self, metainfo: Mapping[str, Any]) -> None:
        """Show values and bands as a dataset's metainfo says, where this step says nothing."""
        self.rule = ValueRule.of(
            self.rule.value_range or metainfo.get("value_range"), self.rule.bands or metainfo.get("bands")
        )

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Load one image.

        Raises:
            UnreadableFile: The file is missing, damaged or no image.
            ValueError: The image has another size than its record says.
        """
        if "img" in sample:
            image = to_image(sample["img"])
        else:
            archive = sample.get("archive")
            image = read_image(sample["img_path"], self.apply_exif, archive, self.max_pixels, self.rule)
        size = (image.shape[-2], image.shape[-1])
        recorded = (sample.get("height", size[0]), sample.get("width", size[1]))
        if recorded != size:
            raise AnnotationError(
                f"{name_of(sample)}: the image is {size} (H, W) but its record says {recorded}; "
                f"{exif_of(sample, recorded)}correct the annotation, or set apply_exif=False if it was made on the "
                "pixels as stored"
            )
        return {**sample, "img": image, "ori_shape": size}


# --- instances --------------------------------------------------------------------------------------------------------
@TRANSFORMS.register_module()
@dataclass
class LoadInstances(Loader):
    """`instances` to `boxes`, `labels` and `masks`.

    Detectron2's recipes train on polygons, which transforms move exactly; bitmaps are rounded to pixels every time, but
    may come from RLEs too, and every transform moves them. A few percent of the cells of Mask R-CNN's targets differ.

    Boxes are clipped to the image. The list itself is taken out of the sample: transforms would walk through every
    coordinate of every polygon.

    Args:
        masks: Load masks too.
        mask_format: "bitmask", a `tv_tensors.Mask`, or "polygon", a `pe_spatial.data.polygons.Polygons`.
        ignored: What to do with instances marked `ignore` (crowds): "drop" them, as Detectron2's training does, or
            "keep" them apart in `ignored_boxes`, `ignored_labels` and `ignored_masks`.
        empty: What to do with a box that has no area inside the image.
        without_mask: What to do with an object without a mask, where masks are loaded. One whose polygons all have
            fewer than three points is always dropped, as by Detectron2.
    """

    masks: bool = True
    mask_format: Literal["bitmask", "polygon"] = "bitmask"
    ignored: Literal["drop", "keep"] = "drop"
    empty: Literal["raise", "drop"] = "raise"
    without_mask: Literal["raise", "drop"] = "raise"

    def __post_init__(self) -> None:
        require_choice("mask_format", self.mask_format, ("bitmask", "polygon"))
        require_choice("ignored", self.ignored, ("drop", "keep"))
        require_choice("empty", self.empty, ("raise", "drop"))
        require_choice("without_mask", self.without_mask, ("raise", "drop"))

    def check_dataset(self, dataset: Any) -> None:
        """Refuse a dataset whose objects lack the masks that are asked for, with their number.

        Raises:
            AnnotationError: Some have none, and they are not to be dropped; or all have none.
        """
        counts = dataset.metainfo.get("mask_counts", {"none": 0})
        total, has_some = sum(counts.values()), bool(counts.get("given"))
        if self.masks and total and (not has_some or counts["none"] and self.without_mask == "raise"):
            remedy = "without_mask='drop' in LoadInstances trains on the others, " if has_some else ""
            lost, or_small = counts["none"], ""
            if not has_some:
                lost, or_small = total, ", or polygons have fewer than three points" if counts["too_small"] else ""
            raise AnnotationError(
                f"{dataset.ann_file}: {lost} of {total} objects have no mask (segmentation is empty or missing"
                f"{or_small}), but this model learns masks: {remedy}a detector of boxes (DETA) needs none: "
                "masks=False in LoadInstances"
            )

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Load the instances of one image.

        Raises:
            OptionError: No image before, an empty box (unless dropped), a mask that cannot be decoded, or an RLE where
                polygons are wanted.
        """
        size = self.frame(sample)
        instances = [item for item in sample.get("instances", ()) if self._is_usable(sample, item, size)]
        objects = [item for item in instances if not item.get("ignore", False)]
        loaded = {name: value for name, value in sample.items() if name != "instances"}
        loaded["boxes"] = _boxes(objects, size)
        loaded["labels"] = _labels(objects)
        if self.masks:
            loaded["masks"] = self._masks(sample, objects, size)
        if self.ignored == "keep":
            regions = [item for item in instances if item.get("ignore", False)]
            loaded["ignored_boxes"] = _boxes(regions, size)
            loaded["ignored_labels"] = _labels(regions)
            if self.masks:
                loaded["ignored_masks"] = self._masks(sample, regions, size)
        return loaded

    def _masks(
        self, sample: dict[str, Any], instances: Sequence[dict[str, Any]], size: tuple[int, int]
    ) -> tv_tensors.TVTensor:
        if self.mask_format == "polygon":
            return Polygons([_outline(sample, item, size) for item in instances], size)
        masks = torch.zeros(len(instances), *size, dtype=torch.bool)  # [N, H, W]
        for row, item in zip(masks, instances, strict=True):
            row.copy_(torch.from_numpy(instance_mask(sample, item, size)))
        return tv_tensors.Mask(masks)

    def _is_usable(self, sample: dict[str, Any], item: dict[str, Any], size: tuple[int, int]) -> bool:
        if self.masks and "mask" not in item:
            if item.get("mask_too_small") or self.without_mask == "drop":
                return False
            raise OptionError(
                f"{name_of(sample)}: the object with the box {list(item['bbox'])} has no mask; give it one, or set "
                "without_mask='drop' or masks=False in LoadInstances"
            )
        x1, y1, x2, y2 = item["bbox"]
        if min(x2, size[1]) > max(x1, 0) and min(y2, size[0]) > max(y1, 0):
            return True
        if self.empty == "drop":
            return False
        raise OptionError(
            f"{name_of(sample)}: box {[x1, y1, x2, y2]} (xyxy) has no area inside the image of {size} (H, W); correct "
            "the annotation, or set empty='drop' in LoadInstances"
        )


def _boxes(instances: Sequence[dict[str, Any]], size: tuple[int, int]) -> tv_tensors.BoundingBoxes:
    boxes = torch.tensor([item["bbox"] for item in instances], dtype=torch.float32).reshape(-1, 4)  # [N, 4]
    boxes[:, 0::2].clamp_(0, size[1])
    boxes[:, 1::2].clamp_(0, size[0])
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)


def _labels(instances: Sequence[dict[str, Any]]) -> torch.Tensor:
    return torch.tensor([item["label"] for item in instances], dtype=torch.int64)


def instance_mask(sample: Mapping[str, Any], item: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask [H, W] of an instance of a sample.

    Raises:
        OptionError: It cannot be decoded; the message names the image and the box.
    """
    try:
        return decode_mask(item["mask"], size)
    except (KeyError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise _undecodable(sample, item, error) from error


def _outline(sample: Mapping[str, Any], item: Mapping[str, Any], size: tuple[int, int]) -> Outline:
    if isinstance(item.get("mask"), dict):
        raise OptionError(
            f"{name_of(sample)}: the mask of box {list(item['bbox'])} is an RLE, which has no polygons; set "
            "mask_format='bitmask' in LoadInstances"
        )
    try:
        return rings_of(item["mask"], size)
    except (KeyError, ValueError, TypeError) as error:
        raise _undecodable(sample, item, error) from error


def _undecodable(sample: Mapping[str, Any], item: Mapping[str, Any], error: Exception) -> OptionError:
    return OptionError(
        f"{name_of(sample)}: the mask of box {list(item['bbox'])} cannot be decoded: {error!r}; give polygons "
        "[[x, y, x, y, …], …] of three points or more, or an RLE of the image's size"
    )


def decode_mask(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A COCO segmentation as bool [H, W].

    Args:
        segmentation: Polygons [[x, y, …], …] in pixels, or an RLE {size: [H, W], counts: list, str or bytes}.
        size: (H, W) of the image.

    Raises:
        ValueError: No polygons or RLE of this image; see `rings_of` and `check_rle`.
    """
    H, W = size
    if isinstance(segmentation, dict):
        check_rle(segmentation, size)
        is_plain = isinstance(segmentation["counts"], list)
        rle = coco_mask.frPyObjects(segmentation, H, W) if is_plain else segmentation
    else:
        rings = [ring.ravel() for ring in rings_of(segmentation, size)]
        rle = coco_mask.merge(coco_mask.frPyObjects(rings, H, W))
    return coco_mask.decode(rle).astype(bool)


def to_bitmaps(polygons: Polygons) -> tv_tensors.Mask:
    """The masks bool [N, H, W] that polygons enclose, for what needs pixels."""
    masks = torch.zeros(len(polygons), *polygons.canvas_size, dtype=torch.bool)
    for mask, outline in zip(masks, polygons.outlines, strict=True):
        if outline:
            mask.copy_(torch.from_numpy(decode_mask([ring.ravel() for ring in outline], polygons.canvas_size)))
    return tv_tensors.Mask(masks)


def encode_masks(masks: Tensor | Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bool masks [N, H, W] as compressed COCO RLEs {size, counts} that JSON can hold; `decode_mask` inverts them.

    Those that are RLEs already, as of detections in large pictures, stay as they are.
    """
    if not isinstance(masks, Tensor):
        return list(masks)
    columns_first = masks.detach().cpu().bool().permute(0, 2, 1).contiguous()  # [N, W, H]
    rles = coco_mask.encode(columns_first.numpy().view(np.uint8).transpose(2, 1, 0))  # [H, W, N], Fortran order
    return [{"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")} for rle in rles]
