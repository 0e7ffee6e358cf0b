"""What the dataset doctor asks of annotation files in COCO's format; the loaders and the engine ask the rest."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from pe_spatial.detection.coco_files import CocoFile, read_coco
from pe_spatial.doctor import DatasetCheck, Finding

# pixels by which boxes may leave their image, for they are rounded
_TOLERANCE = 1


class CocoFileCheck(DatasetCheck):
    """Numbering of categories and annotations, boxes outside their image, images that are listed twice."""

    @classmethod
    def concerns(cls, dataset: Any, record: dict[str, Any]) -> bool:
        """Datasets whose instances come from a JSON file, also where another package makes label maps of them."""
        return "instances" in record and str(dataset.ann_file).endswith(".json")

    def inspect_annotations(self) -> Iterable[Finding]:
        """Read the file again, as it stands."""
        file = read_coco(self.dataset.ann_file)
        yield from _numbering(file)
        yield from _boxes(file)
        names = Counter(image["file_name"] for image in file.images if "file_name" in image)  # LVIS has URLs
        for name, count in names.items():
            if count > 1:
                yield Finding("error", "images listed more than once", f"{name}: {count} times")
        without = sum(not annotation.get("segmentation") for annotation in file.annotations)
        if without:
            yield Finding("note", f"{without} of {len(file.annotations)} annotations have no mask")


def _numbering(file: CocoFile) -> Iterator[Finding]:
    ids = sorted(category["id"] for category in file.categories)
    if ids and ids[0] == 0:
        yield Finding(
            "warning",
            "category ids start at 0",
            f"{ids[0]}…{ids[-1]}: handled here, but many tools take category 0 for the background; count from 1",
        )
    if ids and ids[-1] - ids[0] + 1 > len(ids):
        yield Finding(
            "note",
            "category ids have gaps",
            f"{len(ids)} ids in {ids[0]}…{ids[-1]}: labels 0…{len(ids) - 1} follow their order",
        )
    if any(annotation.get("id") == 0 for annotation in file.annotations):
        yield Finding(
            "warning",
            "annotation ids start at 0",
            "handled here, but pycocotools takes a match with annotation 0 for none; count from 1",
        )


def _boxes(file: CocoFile) -> Iterator[Finding]:
    images = {image["id"]: image for image in file.images}
    for annotation in file.annotations:
        image = images[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        right, bottom = image.get("width", float("inf")), image.get("height", float("inf"))
        example = (
            f"annotation {annotation.get('id')}: [x, y, width, height] {annotation['bbox']} in "
            f"{image.get('file_name')} of {(bottom, right)} (H, W)"
        )
        if min(x + width, right) <= max(x, 0) or min(y + height, bottom) <= max(y, 0):
            yield Finding("error", "boxes without area in their image", example)
        elif min(x, y) < -_TOLERANCE or x + width > right + _TOLERANCE or y + height > bottom + _TOLERANCE:
            yield Finding("warning", "boxes that reach beyond their image", example)
