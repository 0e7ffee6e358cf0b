"""What the dataset doctor asks of depth maps."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from pe_spatial.depth.datasets import DepthDataset
from pe_spatial.doctor import DatasetCheck, Finding, Histogram

# edges of the histogram in meters, doubling
_EDGES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, float("inf"))
_FEW = 0.01
_MOST = 0.75  # share of the measurements that lie in a sensible range


class DepthCheck(DatasetCheck):
    """Coverage, and the distribution of the measurements over meters and over `depth_range`."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self._counts = np.zeros(len(_EDGES) - 1, np.int64)
        self._images = np.zeros(len(_EDGES) - 1, np.int64)
        self._measured = self._inside = self._pixels = 0
        self._nearest, self._farthest = float("inf"), 0.0

    @classmethod
    def concerns(cls, dataset: Any, record: dict[str, Any]) -> bool:
        """All datasets of this package."""
        return isinstance(dataset, DepthDataset)

    def inspect_sample(self, record: dict[str, Any], sample: dict[str, Any] | None) -> Any:
        """The measurements' extremes and distribution."""
        if sample is None or "depth" not in sample:
            return None
        depth = sample["depth"].numpy()
        measured = depth[depth > 0]
        least, greatest = self.dataset.depth_range or (0.0, float("inf"))
        return {
            "path": record["depth_path"],
            "pixels": depth.size,
            "extremes": (float(measured.min(initial=np.inf)), float(measured.max(initial=0))),
            "inside": int(((measured >= least) & (measured <= greatest)).sum()),
            "counts": np.histogram(measured, _EDGES)[0],
        }

    def collect(self, seen: Any) -> Iterable[Finding]:
        """Count, and find maps that hold nearly nothing."""
        if seen is None:
            return
        path, measured, (nearest, farthest) = seen["path"], int(seen["counts"].sum()), seen["extremes"]
        self._counts += seen["counts"]
        self._images += seen["counts"] > 0
        self._measured += measured
        self._inside += seen["inside"]
        self._pixels += seen["pixels"]
        self._nearest, self._farthest = min(self._nearest, nearest), max(self._farthest, farthest)
        if measured < _FEW * seen["pixels"]:
            example = f"{path}: {measured} of {seen['pixels']} pixels"
            yield Finding("warning", f"depth maps with measurements in less than {_FEW:.0%} of the pixels", example)
        if measured and nearest == farthest:
            yield Finding("warning", "depth maps of one constant value", f"{path}: {nearest:g} m")
        if measured and not seen["inside"]:
            example = f"{path}: {nearest:g} to {farthest:g} m, the range is {self.dataset.depth_range}"
            yield Finding("error", "depth maps without a pixel in depth_range", example)

    def finish(self) -> Iterable[Finding]:
        """The sums, and the pixels by distance."""
        if self._measured:
            yield Finding(
                "note",
                f"depth from {self._nearest:.3g} to {self._farthest:.3g} m; {self._measured / self._pixels:.1%} of the "
                f"pixels are measured, {self._inside / self._measured:.1%} of these lie in the range",
            )
            if self._inside < _MOST * self._measured:
                least, greatest = self.dataset.depth_range
                yield Finding(
                    "warning",
                    "many pixels lie outside depth_range; the unit may be wrong",
                    f"{1 - self._inside / self._measured:.0%} of the measurements are outside {least:g} to "
                    f"{greatest:g} m; see depth_scale {self.dataset.depth_scale} and depth_range",
                )
        if self._counts.any():
            names = [f"{low:g} to {high:g} m" for low, high in zip(_EDGES, _EDGES[1:], strict=False)]
            filled = np.flatnonzero(self._counts)
            shown = slice(filled[0], filled[-1] + 1)
            self.histogram = Histogram(
                "pixels", names[shown], self._counts[shown].tolist(), self._images[shown].tolist(), kind="distance"
            )
