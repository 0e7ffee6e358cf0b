"""What the dataset doctor asks of instances of any format; the loaders and the engine ask the rest."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from pe_spatial.common.errors import few
from pe_spatial.data.annotations import CocoTable
from pe_spatial.data.annotations.coco_columns import INSIDE, NO_AREA, NO_MASK, PARTLY, TOO_SMALL
from pe_spatial.data.formats import open_source
from pe_spatial.doctor import DatasetCheck, Finding
from pe_spatial.doctor.findings import Level


class CocoFileCheck(DatasetCheck):
    """Numbering of categories and annotations, boxes outside their image, images that are listed twice."""

    @classmethod
    def concerns(cls, dataset: Any, record: dict[str, Any]) -> bool:
        """Datasets that name the source of their instances, also where another package makes label maps of them."""
        return "instances" in record and "ann_file" in dataset.metainfo

    def inspect_annotations(self) -> Iterable[Finding]:
        """Read the source again, whichever of its entries the dataset took."""
        metainfo = self.dataset.metainfo
        table = open_source(metainfo["ann_file"], **metainfo.get("ann_options", {})).table
        yield from _numbering(table)
        yield from _boxes(table)
        names = Counter(table.image(row).get("file_name") for row in range(len(table.columns["image_id"])))
        for name, count in names.items():
            if count > 1 and name is not None:  # LVIS has addresses
                yield Finding("error", "images listed more than once", f"{name}: {count} times")
        yield from (Finding("note", line) for line in table.conversions)
        shapes = table.columns["shape"]
        for shape, what in ((NO_MASK, "have no mask"), (TOO_SMALL, "have a mask without a polygon of three points")):
            count = int((shapes == shape).sum())
            if count:
                yield Finding("note", f"{count} of {len(shapes)} annotations {what}")


def _numbering(table: CocoTable) -> Iterator[Finding]:
    ids = [category["id"] for category in table.categories]
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
    numbers = table.columns["id"][table.columns["id"] != -1]
    if repeated := len(numbers) - len(np.unique(numbers)):
        yield Finding(
            "warning",
            "annotation ids are used more than once",
            f"{repeated} of {len(numbers)}: handled here, but pycocotools keeps only the last of each; renumber them",
        )
    if (table.columns["id"] == 0).any():
        yield Finding(
            "warning",
            "annotation ids start at 0",
            "handled here, but pycocotools treats annotation 0 as no match; count from 1",
        )


def _boxes(table: CocoTable) -> Iterator[Finding]:
    outside, boxes = table.columns["outside"], table.columns["box"]
    findings: dict[int, tuple[Level, str]] = {
        NO_AREA: ("error", "boxes without area in their image"),
        PARTLY: ("warning", "boxes that reach beyond their image"),
    }
    for row in np.flatnonzero(outside != INSIDE):
        image = table.image(int(table.columns["image"][row]))
        level, what = findings[int(outside[row])]
        yield Finding(
            level,
            what,
            f"annotation {table.columns['id'][row]}: [x, y, width, height] [{few(map('{:g}'.format, boxes[row]), 4)}] "
            f"in {image.get('file_name')} of {(image.get('height'), image.get('width'))} (H, W)",
        )
