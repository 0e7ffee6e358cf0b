"""From J and F of every frame to the numbers of DAVIS's official table."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np


class Summary(NamedTuple):
    """Statistics of the values of an object over the frames.

    Args:
        mean: Over the frames.
        recall: Share of the frames above 0.5.
        decay: Mean of the first quarter less that of the last.
    """

    mean: float
    recall: float
    decay: float


def summarize(values: Sequence[float]) -> Summary:
    """Summarize the J or the F of one object on consecutive frames; all NaN if there is none.

    Neighboring quarters share a frame. (The official code counts frames in 8 bits, which changes the decay of videos
    of more than 256 frames; here it does not.)
    """
    array = np.asarray(values, dtype=float)
    if not len(array):
        return Summary(math.nan, math.nan, math.nan)
    edges = np.round(np.linspace(1, len(array), 5) + 1e-10).astype(int) - 1
    first, last = array[edges[0] : edges[1] + 1], array[edges[3] : edges[4] + 1]
    return Summary(float(array.mean()), float((array > 0.5).mean()), float(first.mean() - last.mean()))


class ScoreTable:
    """Scores of the objects of a dataset; its text is a table.

    Args:
        objects: For each, `video`, `object`, and the values of `J` and `F` by frame, as
            `pe_spatial.tracking.metrics.VideoScore.results` gives them. Objects without a scored frame are left out.
    """

    def __init__(self, objects: Iterable[Mapping[str, Any]]) -> None:
        self.rows = [
            (str(item["video"]), int(item["object"]), summarize(item["J"]), summarize(item["F"]))
            for item in objects
            if len(item["J"])
        ]

    @cached_property
    def totals(self) -> dict[str, float]:
        """The official global numbers: J&F, and means over objects of the statistics of J and F."""
        totals: dict[str, float] = {}
        for measure, column in (("J", 2), ("F", 3)):
            for statistic in Summary._fields:
                values = [getattr(row[column], statistic) for row in self.rows]
                totals[f"{measure}-{statistic}"] = float(np.mean(values)) if values else math.nan
        return {"J&F": (totals["J-mean"] + totals["F-mean"]) / 2, **totals}

    def as_dict(self) -> dict[str, Any]:
        """The totals and the objects as JSON holds them."""
        objects = [{"video": v, "object": n, "J": j._asdict(), "F": f._asdict()} for v, n, j, f in self.rows]
        return {"global": self.totals, "objects": objects}

    def __str__(self) -> str:
        width = max([len("all objects"), *(len(f"{video} {number}") for video, number, _, _ in self.rows)])
        head = " ".join(f"{name:>8}" for name in self.totals)
        lines = [f"{'':{width}} {head}"]
        for video, number, j, f in self.rows:
            values = [(j.mean + f.mean) / 2, *j, *f]
            lines.append(f"{f'{video} {number}':{width}} " + " ".join(f"{value:8.4f}" for value in values))
        totals = " ".join(f"{value:8.4f}" for value in self.totals.values())
        return "\n".join([*lines, f"{'all objects':{width}} {totals}"])
