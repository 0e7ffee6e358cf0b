"""Detections of many images as one COCO file, and as drawn pictures."""

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.common.errors import UserError
from pe_spatial.common.files import write_json_stream
from pe_spatial.common.records import Records
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.sample import checked_threshold, instance_rows
from pe_spatial.inference.tasks import Task, register_task
from pe_spatial.inference.writer import ResultsWriter
from pe_spatial.visualization import draw_instances


class DetectionWriter(ResultsWriter):
    """Writes the detections of a run of `pe-spatial predict`.

    `predictions.json` is a COCO dataset: `images` (`file_name` relative to the input; frames of a video have
    `frame` too, from 0), `categories` with the ids of the training data, and `annotations` with `score`,
    `bbox` [x, y, width, height] in pixels of the original image, `area` and, of models with masks, `segmentation`
    as compressed RLE; without masks the area is the box's.

    The metainfo of the predictor has `classes` and, where the ids do not count from 1, `category_ids`. Detections that
    score less than the option `threshold` are left out.

    Raises:
        UserError: The threshold is no score, or the model names no classes.
    """

    result = "predictions.json"

    def __init__(self, records: Records, stems: Mapping[str, str], predictor: Predictor, options: Namespace) -> None:
        self.threshold = checked_threshold(options.threshold)
        if not predictor.classes:
            raise UserError("the checkpoint has no class names; train it on a dataset that has them in its metainfo")
        self.classes = predictor.classes
        self.category_ids: Sequence[int] = predictor.metainfo.get("category_ids") or range(1, len(self.classes) + 1)
        super().__init__(records, stems, predictor, options)

    def describe(self, stem: str, image: Tensor, sample: BaseDataElement, frame: int | None) -> dict[str, Any]:
        """The size of the image and rows of COCO's format."""
        found = sample.pred_instances
        found = found[found.scores >= self.threshold]
        rows = [
            {"category_id": int(self.category_ids[row.pop("label")]), "iscrowd": 0, **row}
            for row in instance_rows(found)
        ]
        return {"height": image.shape[-2], "width": image.shape[-1], "annotations": rows}

    def draw(self, image: Tensor, sample: BaseDataElement, frame: int | None) -> Tensor:
        """Boxes and masks on the image."""
        return draw_instances(image, sample.pred_instances, self.classes, self.threshold, longest=self.longest)

    def write_lists(self) -> None:
        """Write `predictions.json`."""
        sections = {
            "images": self._images(),
            "categories": [
                {"id": int(number), "name": name} for number, name in zip(self.category_ids, self.classes, strict=True)
            ],
            "annotations": self._annotations(),
        }
        write_json_stream(self.folder / self.result, sections)

    def _images(self) -> Iterator[dict[str, Any]]:
        for number, content in enumerate(self.records.contents(), start=1):
            yield {"id": number, **{key: value for key, value in content.items() if key != "annotations"}}

    def _annotations(self) -> Iterator[dict[str, Any]]:
        numbers = count(1)
        for image, content in enumerate(self.records.contents(), start=1):
            yield from ({"id": next(numbers), "image_id": image, **row} for row in content["annotations"])


register_task(Task("detection", DetectionWriter, settings=("threshold", "slices", "slice_overlap")))
