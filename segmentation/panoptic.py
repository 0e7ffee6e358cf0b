"""Datasets that know every object apart: COCO's panoptic format, and instances painted into label maps.

The samples of both have `sem_seg`, and with `instances=True` of their loader also `boxes`, `labels` and `masks` of the
things, and `ignored_boxes`, `ignored_labels` and `ignored_masks` of crowds. Labels are rows of the metainfo's `classes`
everywhere; the metainfo says which classes are things (countable) in `is_thing`, one truth value by class.

No pixel belongs to two objects. Where instances overlap, the smallest (by its own mask) is on top, for what is small
usually stands in front of or is part of what is large; crowd regions lie under everything. The masks and boxes of a
sample are those of the visible parts, and objects of which nothing is visible are left out.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import DATASETS, TRANSFORMS
from numpy.typing import NDArray
from torchvision import tv_tensors

from pe_spatial.common.contracts import Loader
from pe_spatial.common.errors import AnnotationError, few
from pe_spatial.common.pictures import read_indices
from pe_spatial.data import DenseDataset, boxes_of_masks
from pe_spatial.data.annotations import PanopticTable
from pe_spatial.data.lazy import LazyRecords
from pe_spatial.data.loading import instance_mask
from pe_spatial.data.sample import IGNORE_LABEL
from pe_spatial.segmentation.labels import look_up, pack
from pe_spatial.visualization import class_colors

Segment = dict[str, Any]  # label: row of classes, is_thing: bool, ignore: bool (crowd)


# --- loaders ----------------------------------------------------------------------------------------------------------
@TRANSFORMS.register_module()
class LoadPanoptic(Loader):
    """`seg_map_path`, a PNG of segment ids, and `segments` to `sem_seg` and the instances.

    An id is R + 256 G + 65536 B, 0 where nothing is labeled. In a palette file the colors count, or its numbers where
    these are listed and the colors are not.

    Args:
        instances: Load the things as `boxes`, `labels` and `masks` too.
    """

    def __init__(self, instances: bool = True) -> None:
        self.instances = instances

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Load one panoptic map.

        Raises:
            UnreadableFile: The file is missing, damaged or no image.
            AnnotationError: Another size than the image, or an id that the record does not have.
        """
        path = sample["seg_map_path"]
        known = {segment["id"]: row for row, segment in enumerate(sample["segments"])}
        ids, rows = _segments_of(read_indices(path, colors=True, palette=True), known)
        self.check_size(path, ids.shape, sample)
        rest = {key: value for key, value in sample.items() if key != "segments"}
        unknown = (rows < 0) & (ids != 0)
        if unknown.any():  # the numbers in a palette file may be the ids, whatever its colors are
            others, rows_of_others = _segments_of(read_indices(path, colors=True), known)
            if not ((rows_of_others < 0) & (others != 0)).any():
                rows, unknown = rows_of_others, np.zeros_like(unknown)
        if unknown.any():
            wrong, counts = np.unique(ids[unknown], return_counts=True)
            raise AnnotationError(
                f"{path}: segment {wrong[0]} ({counts[0]} pixels) is not among the {len(sample['segments'])} segments "
                "that the annotation file lists for it; both files must be from the same version of the dataset"
            )
        return {**rest, **_sample_of(rows, sample["segments"], self.instances)}


def _segments_of(values: NDArray[Any], known: Mapping[int, int]) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64]]:
    """The ids that values [H, W] or colors [H, W, 3] stand for, and their rows, -1 where they are not known."""
    ids = values if values.ndim == 2 else pack(values)
    return ids, look_up(ids, known)


@TRANSFORMS.register_module()
class LoadInstanceLabels(Loader):
    """`instances` to `sem_seg`, painted by the overlap rule of this module. It replaces `LoadInstances`.

    Args:
        instances: Load their visible parts as `boxes`, `labels` and `masks` too.
    """

    def __init__(self, instances: bool = False) -> None:
        self.instances = instances

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Paint one label map.

        Raises:
            AnnotationError: A mask that cannot be decoded, or the record is not of `InstanceLabels`.
        """
        if "uncovered" not in sample or "ori_shape" not in sample:
            raise AnnotationError(
                f"{sample.get('img_path')}: LoadInstanceLabels needs a record of InstanceLabels and LoadImage before it"
            )
        size = tuple(sample["ori_shape"])
        items = sample["instances"]
        masks = [instance_mask(sample, item, size) for item in items]
        order = sorted(range(len(items)), key=lambda n: (not items[n]["ignore"], -int(masks[n].sum())))
        rows = np.full(size, -1)
        for n in order:
            rows[masks[n]] = n
        segments = [{"label": item["label"], "is_thing": True, "ignore": item["ignore"]} for item in items]
        rest = {key: value for key, value in sample.items() if key not in ("instances", "uncovered")}
        return {**rest, **_sample_of(rows, segments, self.instances, sample["uncovered"])}


def _sample_of(
    rows: NDArray[np.int64], segments: Sequence[Segment], instances: bool, uncovered: int = IGNORE_LABEL
) -> dict[str, Any]:
    """The sample's keys from a map of rows of `segments` [H, W], -1 where there is none."""
    of_row = np.array([segment["label"] for segment in segments] + [uncovered])
    loaded: dict[str, Any] = {"sem_seg": tv_tensors.Mask(torch.from_numpy(of_row[rows])[None])}  # -1: the last
    if instances:
        visible = [row for row in np.unique(rows).tolist() if row >= 0]  # in the order of the file
        crowds = [row for row in visible if segments[row]["ignore"]]
        things = [row for row in visible if segments[row]["is_thing"] and not segments[row]["ignore"]]
        for prefix, chosen in (("", things), ("ignored_", crowds)):
            loaded[f"{prefix}boxes"], loaded[f"{prefix}masks"] = _boxes_and_masks(rows, chosen)
            labels = [segments[row]["label"] for row in chosen]
            loaded[f"{prefix}labels"] = torch.tensor(labels, dtype=torch.int64)
    return loaded


def _boxes_and_masks(rows: NDArray[np.int64], kept: Sequence[int]) -> tuple[tv_tensors.BoundingBoxes, tv_tensors.Mask]:
    masks = torch.from_numpy(rows == np.array(kept, dtype=np.int64)[:, None, None])  # [N, H, W]
    boxes = boxes_of_masks(masks) if len(masks) else torch.zeros(0, 4)
    canvas = (rows.shape[0], rows.shape[1])
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=canvas), tv_tensors.Mask(masks)


# --- datasets --------------------------------------------------------------------------------------------------------
@DATASETS.register_module()
class CocoPanoptic(DenseDataset):
    """COCO's panoptic format: a JSON file of images, segments and categories, and a folder of PNGs of segment ids.

    Labels follow the order of the category ids, which may have gaps.

    Args:
        ann_file: The JSON file, relative to `data_root`.
        data_prefix: The folders `img_path` and `seg_map_path`, relative to `data_root`.
        instance_file: The JSON file of the same images' instances, relative to `data_root`, that masks are scored
            against (`CocoMetric`), if there is one; its category ids are those of the panoptic file. Only the metainfo
            names it.
        **kwargs: Those of `DenseDataset`.
    """

    def __init__(self, *, instance_file: str | None = None, **kwargs: Any) -> None:
        self.instance_file = instance_file
        kwargs["serialize_data"] = False  # the table is shared by all processes already
        super().__init__(**kwargs)

    def load_data_list(self) -> LazyRecords:
        """One record per annotated image, made when it is asked for.

        Raises:
            AnnotationError: See `PanopticTable`; an image without a file name.
        """
        self.table = PanopticTable(self.ann_file)
        if "" in (names := list(self.table.texts("image_names"))):
            number = self.table.image(names.index(""))["id"]
            raise AnnotationError(f"{self.ann_file}: image {number} has no file_name; every image needs one")
        categories = self.table.categories
        unsaid = [category["name"] for category in categories if "isthing" not in category]
        if unsaid:
            self._warn(
                f"isthing is missing, so it is not known which classes are things in {few(unsaid)} : all are treated "
                f"as things"
            )
        self._things = [bool(category.get("isthing", 1)) for category in categories]
        self._metainfo.update(_describe(self.ann_file, categories, self._things))
        self._metainfo["category_ids"] = tuple(category["id"] for category in categories)
        if self.instance_file:
            self._metainfo["ann_file"] = str(Path(self.data_root, self.instance_file))
        self._name_split_stuff()
        return LazyRecords(self._record, np.arange(len(self.table), dtype=np.int32))

    def _record(self, row: int) -> dict[str, Any]:
        image = self.table.image(int(self.table.columns["map_image"][row]))
        return {
            "img_path": str(Path(self.data_prefix["img_path"], image["file_name"])),
            "img_id": image["id"],
            **{side: image[side] for side in ("height", "width") if side in image},
            "seg_map_path": str(Path(self.data_prefix["seg_map_path"], self.table.map_name(row))),
            "segments": [
                {"id": number, "label": label, "is_thing": self._things[label], "ignore": is_crowd}
                for number, label, is_crowd in self.table.segments(row)
            ],
        }

    def _name_split_stuff(self) -> None:
        columns = self.table.columns
        maps = np.repeat(np.arange(len(self.table)), np.diff(columns["segments_end"], prepend=0))  # [S]
        is_stuff = ~np.array(self._things, bool)[columns["segment_category"]] & ~columns["segment_crowd"]
        pairs, counts = np.unique(
            maps[is_stuff] * len(self._things) + columns["segment_category"][is_stuff], return_counts=True
        )
        split = np.unique(pairs[counts > 1] // len(self._things)).tolist()
        if split:
            names = few(map(self.table.map_name, split))
            self._warn(
                f"{len(split)} images list several segments of one stuff class ({names}); they are one segment in "
                "training and in panoptic quality, where panopticapi would count each"
            )

    def _warn(self, text: str) -> None:
        print_log(f"{self.ann_file}: {text}", logger="current", level=logging.WARNING)


def _describe(source: str, categories: Sequence[Mapping[str, Any]], things: Sequence[bool]) -> dict[str, Any]:
    if not 1 <= len(categories) <= IGNORE_LABEL:
        raise AnnotationError(
            f"{source}: {len(categories)} classes; label maps can have 1 to {IGNORE_LABEL} ({IGNORE_LABEL} marks "
            "pixels without a label)"
        )
    names = tuple(category["name"] for category in categories)
    own = class_colors(names)
    return {
        "classes": names,
        "palette": [list(c.get("color", color)) for c, color in zip(categories, own, strict=True)],
        "is_thing": tuple(things),
    }


@DATASETS.register_module()
class InstanceLabels(DenseDataset):
    """Any dataset of instances (COCO, LVIS) as label maps, painted on the fly by `LoadInstanceLabels`.

    The package of the source must be imported too:
    `custom_imports: {imports: [pe_spatial.segmentation, pe_spatial.detection]}`.

    Args:
        source: Config of a dataset whose records have `instances` with masks, such as `CocoInstances`.
        background: Name of the class of the pixels without an instance, which becomes class 0; None leaves them
            unlabeled.
        **kwargs: Those of `DenseDataset`.
    """

    def __init__(self, source: Mapping[str, Any], background: str | None = "background", **kwargs: Any) -> None:
        self.source = dict(source)
        self.background = background
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """The source's records, with labels moved on by one where there is a background.

        Raises:
            AnnotationError: The source has no masks.
        """
        source = DATASETS.build(self.source)
        self.ann_file = source.ann_file
        shift = 0 if self.background is None else 1
        names = [self.background] if self.background is not None else []
        names += source.metainfo["classes"]
        things = [False] * shift + [True] * (len(names) - shift)
        self._metainfo.update(_describe(self.ann_file, [{"name": name} for name in names], things))
        known = source.metainfo
        if "category_ids" in known:  # what masks are scored against; the background has an id that no object has
            ids = known["category_ids"]
            origin = {key: known[key] for key in ("ann_file", "ann_options") if key in known}
            self._metainfo.update(category_ids=(*[min(ids) - 1] * shift, *ids), **origin)
        records = []
        for index in range(len(source)):
            record = source.get_data_info(index)
            # the source has counted instances whose mask is no region, and left the mask out
            moved = [{**item, "label": item["label"] + shift} for item in record["instances"] if "mask" in item]
            records.append({**record, "instances": moved, "uncovered": 0 if shift else IGNORE_LABEL})
        if records and not any(record["instances"] for record in records):
            raise AnnotationError(
                f"{source.ann_file}: no instance has a mask, but label maps are made from masks; annotate masks"
            )
        return records
