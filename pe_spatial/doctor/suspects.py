"""Labels that a trained model contradicts: what is suspected, as a list and as a sheet of pictures."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Suspect:
    """One label, or one place without a label, that the model contradicts.

    Args:
        kind: A key of `KINDS`.
        score: From 0 to 1; how much the model contradicts it.
        image: Path of the image.
        row: Number of the annotation among those of its image; None where there is none.
        label: Class of the annotation.
        box: [x1, y1, x2, y2] of the annotation in pixels.
        predicted_label: Class that the model says.
        predicted_box: [x1, y1, x2, y2] of the model's.
        confidence: Of the model, from 0 to 1.
        predicted_mask: Compressed RLE, where the shapes differ.
    """

    kind: str
    score: float
    image: str
    row: int | None = None
    label: str | None = None
    box: list[float] | None = None
    predicted_label: str | None = None
    predicted_box: list[float] | None = None
    confidence: float = 0.0
    predicted_mask: dict[str, Any] | None = None

    def weighed(self, factor: float) -> "Suspect":
        """The same with its score multiplied."""
        return replace(self, score=self.score * factor)
