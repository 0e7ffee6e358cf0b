"""COCO instances as records, and the datasets that come in their format: LVIS and Objects365."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from numpy.typing import NDArray

from pe_spatial.common.errors import AnnotationError, few, require_choice, suggest
from pe_spatial.data import DenseDataset
from pe_spatial.data.annotations import file_below
from pe_spatial.data.annotations.coco_columns import NO_AREA, NO_ID, NO_MASK, PARTLY, POLYGONS, RLE, TOO_SMALL
from pe_spatial.data.formats import open_source
from pe_spatial.data.lazy import LazyRecords
from pe_spatial.data.pairs import find_absent

_BOXES = 1 << 16  # that are looked at at a time
_SMALLEST_BOX = 2  # pixels; a file of which all boxes are smaller has not been written in pixels


@DATASETS.register_module()
class CocoInstances(DenseDataset):
    """Boxes and masks from a COCO file, or from a file or folder of any format that `data/formats` reads with boxes.

    What is read becomes a `CocoTable`, which all processes share; a record is made when it is asked for. What was
    recognized of another format is logged.

    Labels 0…K-1 follow the order of the file's category ids, which may have gaps, or that of `metainfo["classes"]`
    where it is given; annotations of other classes are then left out. Crowd regions are marked `ignore`. Boxes are
    clipped to the image; those without area are left out. An instance without a mask has no `mask`; one whose polygons
    all have fewer than three points has none either, and is marked `mask_too_small`. It has the annotation's `id` if
    the file gives one. The log counts what was left out or changed.

    Args:
        ann_file: A COCO file; or a file or folder of another format (YOLO, Pascal VOC, LabelMe, Label Studio, masks of
            single objects, COCO as CVAT, Datumaro and Roboflow export it). Without it, `data_root` is this folder.
        *args: Those of `DenseDataset`.
        split: Which part of it; may be left out where there is only one.
        format: Name of its format (`pe_spatial.data.formats.FORMATS`), where it can be read in several ways.
        keep_empty: Whether images without objects (crowds do not count) stay. Detectron2 trains without them.
        missing: What to do with images of the file that are not in their folder: `raise` an error or `drop` them.
        **kwargs: Those of `DenseDataset`; `serialize_data` has nothing to do. `data_prefix.img_path`, the folder of the
            pictures, may be left out where `split` or `format` is given or `ann_file` is no COCO file: they are found.

    The metainfo gains `classes`, `category_ids` (of each label), `image_counts` (images with each class),
    `most_objects` (of one image), `mask_counts` (objects by what is known of their mask: `given`, `none`, `too_small`)
    and `ann_file` with `ann_options` (`split` and `format`), by which others open the same table.

    Raises:
        AnnotationError: See `open_source`; images that are not in their folder; a class that the file lacks.
    """

    def __init__(
        self,
        ann_file: str = "",
        *args: Any,
        split: str | None = None,
        format: str | None = None,  # noqa: A002 - as users call it
        keep_empty: bool = True,
        missing: Literal["raise", "drop"] = "raise",
        **kwargs: Any,
    ) -> None:
        require_choice("missing", missing, ("raise", "drop"))
        self.options = {"split": split, "format": format}
        self.keep_empty = keep_empty
        self.missing = missing
        kwargs["serialize_data"] = False  # the table is shared by all processes already
        super().__init__(ann_file, *args, **kwargs)

    def _join_prefix(self) -> None:
        self._finds_pictures = not self.data_prefix.get("img_path")
        super()._join_prefix()
        self.ann_file: str = self.ann_file or self.data_root
        if not self.ann_file:
            raise AnnotationError(f"{type(self).__name__} has no ann_file; give a file or folder with annotations")

    def load_data_list(self) -> LazyRecords:
        """Read the annotations."""
        source = open_source(self.ann_file, **self.options)
        self.table = source.table
        for line in (source.about, *source.notes):
            if line:
                print_log(line, logger="current")
        self._image_root = source.image_root
        if source.image_root is not None and self._finds_pictures:
            self.data_prefix["img_path"] = str(source.image_root)
        categories = self._choose(self.table.categories)
        columns = self.table.columns
        label_of = {category["id"]: label for label, category in enumerate(categories)}
        self._label_of = np.array([label_of.get(row["id"], -1) for row in self.table.categories], np.int32)
        paths = self._paths()
        records = self._present(LazyRecords(self._record, np.arange(len(paths), dtype=np.int32)), paths)
        records = self.take_part(records, [paths[row] for row in records.rows])
        is_present = np.zeros(len(columns["image_id"]), bool)
        is_present[records.rows] = True
        labels = self._label_of[columns["category"]]  # [N]
        is_object = (labels >= 0) & (columns["outside"] != NO_AREA) & ~columns["crowd"] & is_present[columns["image"]]
        per_image = np.bincount(columns["image"][is_object], minlength=len(columns["image_id"]))
        self._object_counts = np.bincount(labels[is_object], minlength=len(categories)).tolist()
        shapes = np.bincount(columns["shape"][is_object], minlength=4).tolist()
        self._metainfo.update(
            classes=tuple(category["name"] for category in categories),
            category_ids=tuple(label_of),
            image_counts=np.bincount(labels[is_object & columns["is_first"]], minlength=len(categories)).tolist(),
            most_objects=int(per_image.max(initial=0)),
            mask_counts={
                "given": shapes[POLYGONS] + shapes[RLE],
                "none": shapes[NO_MASK],
                "too_small": shapes[TOO_SMALL],
            },
            ann_file=str(self.ann_file),
            ann_options=self.options,
            **self.describe(categories),
        )
        self._report(labels >= 0, is_object)
        self._has_object = per_image > 0
        return records

    def describe(self, categories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """More metainfo from the chosen categories, for subclasses."""
        return {}

    def image_file(self, image: Mapping[str, Any]) -> str:
        """Path of an image below `data_prefix["img_path"]`."""
        return image["file_name"]

    def filter_data(self) -> Sequence[dict[str, Any]]:
        """Leave out images without objects, unless `keep_empty`."""
        if self.keep_empty:
            return self.data_list
        kept = self.data_list[np.flatnonzero(self._has_object[self.data_list.rows])]
        if len(kept) < len(self.data_list):
            dropped = len(self.data_list) - len(kept)
            print_log(f"{self.ann_file}: left out {dropped} images without objects", logger="current")
        if not kept and (reason := _all_crowds(self.table.columns)):
            raise AnnotationError(f"{self.ann_file}: {reason}")
        return kept

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels of the objects in an image, each once."""
        return sorted({item["label"] for item in self.get_data_info(idx)["instances"] if not item["ignore"]})

    def image_paths(self) -> list[str]:
        """See `DenseDataset`; records are not made for it."""
        self.full_init()
        paths = self._paths()
        return [paths[row] for row in self.data_list.rows]

    def class_counts(self) -> dict[str, int]:
        """Number of objects of each class."""
        return dict(zip(self.metainfo["classes"], self._object_counts, strict=True))

    def holds_bitmaps(self) -> bool:
        """Whether the mask of some object is an RLE, which has no polygons."""
        columns = self.table.columns
        return bool(((columns["shape"] == RLE) & ~columns["crowd"]).any())

    def _choose(self, categories: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The categories in the order of their labels."""
        names = self._metainfo.get("classes")
        if names is None:
            return categories
        by_name = {category["name"]: category for category in categories}
        for name in names:
            if name not in by_name:
                raise AnnotationError(f"{self.ann_file}: there is no category {name!r}; {suggest(name, by_name)}")
        return [by_name[name] for name in names]

    def _report(self, is_chosen: NDArray[np.bool_], is_object: NDArray[np.bool_]) -> None:
        """Say what was left out or changed, and what looks wrong."""
        columns = self.table.columns
        outside, shape = columns["outside"], columns["shape"]
        counts = {
            "boxes without area in the image left out": (is_chosen & (outside == NO_AREA)).sum(),
            "boxes that leave the image clipped": (is_chosen & (outside == PARTLY)).sum(),
            "masks without a polygon of three points": (is_object & (shape == TOO_SMALL)).sum(),
            "objects without a mask": (is_object & (shape == NO_MASK)).sum() if (shape != NO_MASK).any() else 0,
        }
        found = [f"{count} {what}" for what, count in counts.items() if count]
        if self.table.tiny_polygons:
            found.append(f"{self.table.tiny_polygons} polygons of fewer than three points left out")
        if found:
            text = f"{self.ann_file}: of {len(outside)} annotations, {', '.join(found)}"
            print_log(text, logger="current", level=logging.WARNING)
        for line in self.table.conversions:
            print_log(f"{self.ann_file}: {line}", logger="current")
        for text in (_all_crowds(columns), _normalized(columns["box"], is_object)):
            if text:
                print_log(f"{self.ann_file}: {text}", logger="current", level=logging.WARNING)

    def _record(self, row: int) -> dict[str, Any]:
        image = self.table.image(row)
        size = image["height"], image["width"]
        return {
            "img_path": self._path(image),
            "img_id": image["id"],
            "height": size[0],
            "width": size[1],
            "instances": self._instances(row, size),
        }

    def _path(self, image: Mapping[str, Any]) -> str:
        return os.path.join(self.data_prefix["img_path"], self.image_file(image))

    def _instances(self, image: int, size: tuple[int, int]) -> list[dict[str, Any]]:
        columns = self.table.columns
        rows = self.table.rows_of(image)
        labels = self._label_of[columns["category"][rows]]
        kept = (labels >= 0) & (columns["outside"][rows] != NO_AREA)
        rows = rows[kept]
        box = columns["box"][rows]
        corners = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1)  # [n, 4]
        corners = corners.clip(0, [size[1], size[0]] * 2)
        fields = (corners, labels[kept], *(columns[name][rows] for name in ("crowd", "id")))
        instances = []
        for row, bbox, label, is_crowd, number in zip(rows, *(field.tolist() for field in fields), strict=True):
            mask = self.table.mask(row)
            known = {"mask": mask} if mask else {"mask_too_small": True} if columns["shape"][row] == TOO_SMALL else {}
            known |= {"id": number} if number != NO_ID else {}
            instances.append({"bbox": bbox, "label": label, "ignore": is_crowd, **known})
        return instances

    def _present(self, records: LazyRecords, paths: Sequence[str]) -> LazyRecords:
        """The records whose image is in its folder, if others may be left out."""
        absent = find_absent(paths)
        if not absent:
            return records
        what, where = f"{len(absent)} of {len(paths)} images", f"in their folder, for example {absent[0]}"
        if self.missing == "raise" or len(absent) == len(records):
            hint = ""
            if self._finds_pictures:
                hint = ", or set format: coco, which looks for them"
            elif self._image_root is not None:
                hint = f", or leave img_path empty ('') for {self._image_root}"
            raise AnnotationError(
                f"{self.ann_file}: {what} are not {where}; check data_root and data_prefix.img_path{hint}"
            )
        text = f"{self.ann_file}: left out {what} that are not {where}"
        print_log(text, logger="current", level=logging.WARNING)
        lost = set(absent)
        return records[[row for row, path in enumerate(paths) if path not in lost]]

    def _paths(self) -> list[str]:
        """Of all images; refuses what lacks a field that every image needs."""
        columns = {"file_name": self.table.texts("image_names"), "coco_url": self.table.texts("image_urls")}
        paths: list[str] = []
        try:
            for values in zip(*columns.values(), strict=True):
                paths.append(self._path({key: value for key, value in zip(columns, values, strict=True) if value}))
        except KeyError as error:
            raise self.table.incomplete(len(paths), error.args[0]) from None
        for side in ("height", "width"):
            unknown = np.flatnonzero(self.table.columns[side] == 0)
            if len(unknown):
                raise self.table.incomplete(int(unknown[0]), side)
        return paths


def _all_crowds(columns: Mapping[str, NDArray[Any]]) -> str:
    """Why there is no object though there are annotations; empty where there is one."""
    crowd = columns["crowd"]
    if not len(crowd) or not crowd.all():
        return ""
    return (
        f"all {len(crowd)} annotations are crowds (iscrowd: 1), which are not used for training; set iscrowd to 0 "
        "for single objects"
    )


def _normalized(boxes: NDArray[np.float64], is_object: NDArray[np.bool_]) -> str:
    """What is to be said of boxes [N, 4] (x, y, width, height) that are not in pixels; empty where nothing is."""
    look = "they look normalized to 0…1; COCO's are in pixels"
    count, small, first = int(is_object.sum()), 0, 0
    for start in range(0, len(boxes), _BOXES):  # a copy of millions of boxes would stay in the heap of every process
        block = boxes[start : start + _BOXES][is_object[start : start + _BOXES]]
        small += int((block[:, 2:] < _SMALLEST_BOX).all(1).sum())
        first += int((block[:, :2] + block[:, 2:] <= 1).all(1).sum())
    if count and small == count:
        return f"all {count} boxes are smaller than {_SMALLEST_BOX} pixels: {look}"
    if first:
        return f"{first} of {count} boxes lie within the first pixel of their image: {look}"
    return ""


@DATASETS.register_module()
class LvisInstances(CocoInstances):
    """LVIS v1, on the images of COCO 2017 (`data_prefix.img_path` holds `train2017` and `val2017`).

    An image is annotated only for the classes that it shows and for some that it is known not to show; `LvisMetric`
    reads from the file which these are. The metainfo has the `frequency` of every class: r (rare), c (common) or f
    (frequent).
    """

    def describe(self, categories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The frequency of every class."""
        lacking = [category["name"] for category in categories if "frequency" not in category]
        if lacking:
            raise AnnotationError(f"{self.ann_file}: the frequency of {few(lacking)} is missing; LVIS needs r, c or f")
        return {"frequency": tuple(category["frequency"] for category in categories)}

    def image_file(self, image: Mapping[str, Any]) -> str:
        """LVIS names images by their address, which ends in folder and file."""
        name = "/".join(image["coco_url"].split("/")[-2:])
        return file_below("", name, f"{self.ann_file}: a coco_url").as_posix()


@DATASETS.register_module()
class Objects365(CocoInstances):
    """Objects365 v2, whose archives unpack to `patch0/…` below `data_prefix.img_path`.

    Classes come from the annotation file. It lists images that its archives lack: they are left out, and counted in the
    log.

    Args:
        *args, **kwargs: Those of `CocoInstances`.
    """

    def __init__(self, *args: Any, missing: Literal["raise", "drop"] = "drop", **kwargs: Any) -> None:
        super().__init__(*args, missing=missing, **kwargs)

    def image_file(self, image: Mapping[str, Any]) -> str:
        """The file names images/v1/patch8/name.jpg; the archives have patch8/name.jpg."""
        return "/".join(image["file_name"].split("/")[-2:])
