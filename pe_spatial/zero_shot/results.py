"""What the classes of pictures and videos are written to: JSON, CSV, pictures with labels, and the score."""

import csv
import io
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.common.files import write_atomically, write_json_stream
from pe_spatial.common.records import Records
from pe_spatial.inference.writer import ResultsWriter
from pe_spatial.visualization.layout import caption_strip, enlarge
from pe_spatial.zero_shot.truth import measure

TABLE = "classification.csv"
_DRAWN = 3  # classes on a picture


class ClassificationWriter(ResultsWriter):
    """Writes the most probable classes of every picture and video.

        OUT/classification.json       of every file the first classes with their scores and cosines; and the score
        OUT/classification.csv        the same as a table: file_name,class_1,score_1,...
        OUT/pictures/NAME             the picture, or the middle frame of a video, below its first classes

    Args:
        records: Of the output folder.
        stems: See `ResultsWriter`.
        classes: Names by row.
        top: How many classes are written.
        truth: The row of the right class by the name of a file; None where nothing is evaluated.
        options: Of the command; `no_pictures`.
    """

    result = "classification.json"
    places = (TABLE,)

    def __init__(
        self,
        records: Records,
        stems: Mapping[str, str],
        classes: tuple[str, ...],
        top: int,
        truth: Mapping[str, int] | None,
        options: Namespace,
    ) -> None:
        self.classes = classes
        self.top = min(top, len(classes))
        self.truth = truth
        super().__init__(records, stems, None, options)
        self._names = {stem: name for name, stem in stems.items()}

    def describe(self, stem: str, image: Tensor, sample: BaseDataElement, frame: int | None) -> dict[str, Any]:
        """The first classes, and where the right one stands."""
        order = sample.scores.argsort(descending=True, stable=True).tolist()
        entry: dict[str, Any] = {"classes": [self._row(sample, row) for row in order[: self.top]]}
        if sample.frames > 1:
            entry["frames"] = sample.frames
        if self.truth is not None:
            row = self.truth[self._names[stem]]
            entry |= {"truth": self.classes[row], "truth_row": row, "rank": order.index(row)}
        return entry

    def _row(self, sample: BaseDataElement, row: int) -> dict[str, Any]:
        numbers = {"score": sample.scores[row].item(), "cosine": sample.cosines[row].item()}
        return {"name": self.classes[row], **{key: round(value, 6) for key, value in numbers.items()}}

    def draw(self, image: Tensor, sample: BaseDataElement, frame: int | None) -> Tensor:
        """The image below its first classes; small images are enlarged."""
        picture = enlarge(image)[0]
        first = sample.scores.topk(min(_DRAWN, len(self.classes)))
        size = max(11, min(picture.shape[-2:]) / 24)
        for score, row in reversed(list(zip(first.values.tolist(), first.indices.tolist(), strict=True))):
            picture = caption_strip(f"{score:6.1%}  {self.classes[row]}", picture, size)
        return picture

    def evaluation(self) -> dict[str, object] | None:
        """Top-1, top-5 and the mean per class over all finished files; None where there is nothing to score."""
        ranks: dict[int, list[int]] = {}
        for entry in self.records.contents():
            if "rank" in entry:
                ranks.setdefault(entry["truth_row"], []).append(entry["rank"])
        return measure(ranks, self.classes) if ranks else None

    def write_lists(self) -> None:
        """Write `classification.json` and the table."""
        head: dict[str, Any] = {"run": self.records.run}
        if score := self.evaluation():
            head["evaluation"] = score
        write_json_stream(self.folder / self.result, {**head, "files": self.records.contents()})
        write_atomically(self.folder / TABLE, lambda file: self._write_table(file))

    def _write_table(self, file: Any) -> None:  # noqa: ANN401 - a binary file
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        table = csv.writer(text)
        table.writerow(["file_name", *(f"{kind}_{i}" for i in range(1, self.top + 1) for kind in ("class", "score"))])
        table.writerows(_cells(self.records.contents()))
        text.detach()


def _cells(entries: Iterable[Mapping[str, Any]]) -> Iterator[list[Any]]:
    for entry in entries:
        yield [entry["file_name"], *(cell for row in entry["classes"] for cell in (row["name"], row["score"]))]


def score_lines(score: Mapping[str, Any], folder: Path) -> list[str]:
    """A score in words, with the classes that are found worst."""
    lines = [
        f"{score['files']} files of {len(score['classes'])} classes: top-1 {score['top1']:.1%}, "
        f"top-5 {score['top5']:.1%}, mean per class {score['mean_per_class']:.1%}"
    ]
    worst = sorted(score["classes"], key=lambda row: row["top1"])[:3]
    lines.append("worst: " + ", ".join(f"{row['name']} {row['top1']:.0%}" for row in worst) + f" (all: {folder})")
    return lines
