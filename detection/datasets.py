"""COCO instances as records, and the data sets that come in their format: LVIS and Objects365."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Literal

from mmengine.logging import print_log
from mmengine.registry import DATASETS

from pe_spatial.common.errors import AnnotationError, few, require_choice, suggest
from pe_spatial.data import DenseDataset
from pe_spatial.data.annotations import file_below, naming_entries
from pe_spatial.data.pairs import find_absent
from pe_spatial.detection.coco_files import read_coco


@DATASETS.register_module()
class CocoInstances(DenseDataset):
    """Boxes and masks from a COCO file.

    Labels 0…K-1 follow the order of the file's category ids, which may have gaps, or that of `metainfo["classes"]`
    where it is given; annotations of other classes are then left out. Crowd regions are marked `ignore`. Boxes are
    clipped to the image; those without area and masks without a polygon of three points are left out, and one line of
    the log counts both.

    Args:
        *args, **kwargs: Those of `DenseDataset`.
        keep_empty: Whether images without objects (crowds do not count) stay. Detectron2 trains without them.
        missing: What to do with images of the file that are not in their folder: `raise` an error or `drop` them.

    The metainfo gains `classes`, `category_ids` (of each label), `image_counts` (images with each class),
    `most_objects` (of one image) and `ann_file`.

    Raises:
        AnnotationError: See `read_coco`; images that are not in their folder; a class that the file lacks.
    """

    def __init__(
        self, *args: Any, keep_empty: bool = True, missing: Literal["raise", "drop"] = "raise", **kwargs: Any
    ) -> None:
        require_choice("missing", missing, ("raise", "drop"))
        self.keep_empty = keep_empty
        self.missing = missing
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the annotation file.

        Raises:
            AnnotationError: See `read_coco`; an entry that lacks a field.
        """
        with naming_entries(self.ann_file):
            return self._records()

    def _records(self) -> list[dict[str, Any]]:
        file = read_coco(self.ann_file)
        categories = self._choose(file.categories)
        label_of = {category["id"]: label for label, category in enumerate(categories)}
        annotations = defaultdict(list)
        for annotation in file.annotations:
            if annotation["category_id"] in label_of:
                annotations[annotation["image_id"]].append(annotation)
        repairs: Counter[str] = Counter()
        records = [self._record(image, annotations[image["id"]], label_of, repairs) for image in file.images]
        records = self._present(records)
        if repairs:
            counts = ", ".join(f"{count} {what}" for what, count in repairs.items())
            text = f"{self.ann_file}: of {len(file.annotations)} annotations, {counts}"
            print_log(text, logger="current", level=logging.WARNING)
        labels = [[item["label"] for item in r["instances"] if not item["ignore"]] for r in records]
        objects, images = Counter(chain.from_iterable(labels)), Counter(chain.from_iterable(map(set, labels)))
        self._object_counts = [objects[label] for label in range(len(categories))]
        self._metainfo.update(
            classes=tuple(category["name"] for category in categories),
            category_ids=tuple(label_of),
            image_counts=[images[label] for label in range(len(categories))],
            most_objects=max(map(len, labels), default=0),
            ann_file=str(self.ann_file),
            **self.describe(categories),
        )
        return records

    def describe(self, categories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """More metainfo from the chosen categories, for subclasses."""
        return {}

    def image_file(self, image: Mapping[str, Any]) -> str:
        """Path of an image below `data_prefix["img_path"]`."""
        return image["file_name"]

    def filter_data(self) -> list[dict[str, Any]]:
        """Leave out images without objects, unless `keep_empty`."""
        if self.keep_empty:
            return self.data_list
        kept = [r for r in self.data_list if any(not item["ignore"] for item in r["instances"])]
        if len(kept) < len(self.data_list):
            dropped = len(self.data_list) - len(kept)
            print_log(f"{self.ann_file}: left out {dropped} images without objects", logger="current")
        return kept

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels of the objects in an image, each once."""
        return sorted({item["label"] for item in self.get_data_info(idx)["instances"] if not item["ignore"]})

    def class_counts(self) -> dict[str, int]:
        """Number of objects of each class."""
        return dict(zip(self.metainfo["classes"], self._object_counts, strict=True))

    def _choose(self, categories: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The categories in the order of their labels."""
        names = self._metainfo.get("classes")
        if names is None:
            return sorted(categories, key=lambda category: category["id"])
        by_name = {category["name"]: category for category in categories}
        for name in names:
            if name not in by_name:
                raise AnnotationError(f"{self.ann_file}: no category is called {name!r}; {suggest(name, by_name)}")
        return [by_name[name] for name in names]

    def _record(
        self,
        image: Mapping[str, Any],
        annotations: Sequence[Mapping[str, Any]],
        label_of: Mapping[int, int],
        repairs: Counter[str],
    ) -> dict[str, Any]:
        try:
            size = int(image["height"]), int(image["width"])
            name = self.image_file(image)
        except KeyError as error:
            raise AnnotationError(
                f"{self.ann_file}: image {image['id']} has no {error.args[0]}; COCO images have id, file_name, height "
                "and width"
            ) from None
        path = file_below(self.data_prefix["img_path"], name, f"{self.ann_file}: image {image['id']}")
        instances = [_instance(a, label_of[a["category_id"]], size, repairs) for a in annotations]
        return {
            "img_path": str(path),
            "img_id": image["id"],
            "height": size[0],
            "width": size[1],
            "instances": [item for item in instances if item is not None],
        }

    def _present(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records whose image is in its folder, if others may be left out."""
        paths = [record["img_path"] for record in records]
        absent = find_absent(paths)
        if not absent:
            return records
        what, where = f"{len(absent)} of {len(paths)} images", f"in their folder, for example {absent[0]}"
        if self.missing == "raise" or len(absent) == len(records):
            raise AnnotationError(f"{self.ann_file}: {what} are not {where}; check data_root and data_prefix.img_path")
        text = f"{self.ann_file}: left out {what} that are not {where}"
        print_log(text, logger="current", level=logging.WARNING)
        lost = set(absent)
        return [record for record in records if record["img_path"] not in lost]


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
            raise AnnotationError(f"{self.ann_file}: no frequency is given of {few(lacking)}; LVIS has r, c or f")
        return {"frequency": tuple(category["frequency"] for category in categories)}

    def image_file(self, image: Mapping[str, Any]) -> str:
        """LVIS names images by their address, which ends in folder and file."""
        return "/".join(image["coco_url"].split("/")[-2:])


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


def _instance(
    annotation: Mapping[str, Any], label: int, size: tuple[int, int], repairs: Counter[str]
) -> dict[str, Any] | None:
    """One instance of a record, or None (counted in `repairs`) where it has no area or no mask region."""
    x, y, width, height = annotation["bbox"]
    box = [max(x, 0.0), max(y, 0.0), min(x + width, float(size[1])), min(y + height, float(size[0]))]
    if not (box[2] > box[0] and box[3] > box[1]):
        repairs["boxes without area in the image left out"] += 1
        return None
    if x < -1 or y < -1 or x + width > size[1] + 1 or y + height > size[0] + 1:  # a pixel is rounding
        repairs["boxes that leave the image clipped"] += 1
    instance = {"bbox": box, "label": label, "ignore": bool(annotation.get("iscrowd", 0))}
    mask = annotation.get("segmentation")
    if mask is None:
        return instance  # a dataset of boxes: LoadInstances complains if masks are asked for
    if isinstance(mask, list):
        mask = [polygon for polygon in mask if len(polygon) >= 6 and len(polygon) % 2 == 0]
        if not mask:
            repairs["masks without a polygon of three points left out"] += 1
            return None
    return {**instance, "mask": mask}
