"""Predicted depth as files: 16-bit PNG, .npy, color maps with a legend, and a list that states unit and kind."""

import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from torch import Tensor

from pe_spatial.common.files import write_atomically, write_json_stream
from pe_spatial.common.pictures import save_image
from pe_spatial.common.records import Records
from pe_spatial.depth.ranges import checked_range
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.tasks import Task, register_task
from pe_spatial.inference.writer import ResultsWriter
from pe_spatial.visualization import color_range, depth_picture

_LARGEST = 65535  # of 16 bits
_STRIP = 2**18  # pixels that are converted at a time


class DepthWriter(ResultsWriter):
    """Writes the depth of a run of `pe-spatial predict`.

    Below `depth/`, which mirrors the input, metric depth is `<name>_depth_mm.png` (16 bits, millimeters) and, on
    request, `<name>_depth_m.npy` (float32, meters). Relative depth is `<name>_depth_relative.png`, in which 65535
    stands for the far end of the model's range, and `<name>_depth_relative.npy`. The frames of a video are in a
    folder of its name. The PNG says the same in its text entries, and `depth.json` for every file, with the extremes.

    16 bits end at 65.535 m: pixels beyond are saturated, counted in `depth.json` and reported; the .npy has them.

    The option `depth_colors` is (near, far) of the color maps. None takes each image's own 2 % and 98 % quantiles, and
    the model's range for the frames of a video, so that a color means the same in all of them.
    """

    result = "depth.json"
    places = ("depth",)

    def __init__(self, records: Records, stems: Mapping[str, str], predictor: Predictor, options: Namespace) -> None:
        self.color_range = None if options.depth_colors is None else checked_range(options.depth_colors)
        super().__init__(records, stems, predictor, options, ("png", "npy") if options.npy else ("png",))

    def describe(self, stem: str, image: Tensor, sample: BaseDataElement, frame: int | None) -> dict[str, Any]:
        """Write the depth; `sample` has `pred_depth` and the metainfo of `DepthModel`."""
        values = _values(sample)
        is_metric, far = bool(sample.depth_is_metric), float(sample.depth_range[1])
        units = 1000.0 if is_metric else _LARGEST / far
        pixels, saturated = _in_16_bits(values, units)
        if self.color_range is None and frame is None:  # here, for `draw` asks again
            sample.set_metainfo({"color_range": color_range(sample.pred_depth.data)})
        entry: dict[str, Any] = {
            "kind": "metric" if is_metric else "relative",
            "unit": "meters" if is_metric else "none",
            "min": round(float(values.min()), 5),
            "max": round(float(values.max()), 5),
            "color_range": list(self._colors_of(sample, frame)),
            "png": f"depth/{stem}_depth_{'mm' if is_metric else 'relative'}.png",
            "png_units_per_unit": units,
            "saturated_pixels": saturated,
        }
        _save_png(self.folder / entry["png"], pixels, entry)
        if "npy" in self.kinds:
            entry["npy"] = f"depth/{stem}_depth_{'m' if is_metric else 'relative'}.npy"
            write_atomically(self.folder / entry["npy"], lambda file: np.save(file, values))
        return entry

    def draw(self, image: Tensor, sample: BaseDataElement, frame: int | None) -> Tensor:
        """The color map with its legend; small ones are drawn enlarged."""
        near, far = self._colors_of(sample, frame)
        return depth_picture(sample.pred_depth.data.float(), near, far, bool(sample.depth_is_metric), self.longest)

    def _colors_of(self, sample: BaseDataElement, frame: int | None) -> tuple[float, float]:
        if self.color_range is not None:
            return self.color_range
        if frame is not None:
            return float(sample.depth_range[0]), float(sample.depth_range[1])
        return sample.get("color_range") or color_range(sample.pred_depth.data)

    def write_lists(self) -> None:
        """Write `depth.json`."""
        saturated = 0

        def entries() -> Iterator[dict[str, Any]]:
            nonlocal saturated
            for entry in self.records.contents():
                saturated += entry["saturated_pixels"] > 0
                yield entry

        write_json_stream(self.folder / self.result, {"files": entries()})
        if saturated:
            warnings.warn(
                f"{saturated} depth maps have pixels beyond {_LARGEST / 1000} m, the end of 16 bits in millimeters; "
                "they are saturated in the PNG files: write .npy files too",
                stacklevel=2,
            )


def _values(sample: BaseDataElement) -> NDArray[np.float32]:
    """The depth [H, W]."""
    return sample.pred_depth.data[0].float().numpy()


def _in_16_bits(values: NDArray[np.float32], units: float) -> tuple[NDArray[np.uint16], int]:
    """Depth in units of a PNG, rounded, and the number of pixels that it cannot hold; strip by strip."""
    pixels, saturated = np.empty(values.shape, np.uint16), 0
    rows = max(_STRIP // values.shape[1], 1)
    for top in range(0, len(values), rows):
        scaled = values[top : top + rows] * units
        saturated += int((scaled >= _LARGEST + 0.5).sum())
        pixels[top : top + rows] = np.clip(np.round(scaled, out=scaled), 0, _LARGEST, out=scaled)
    return pixels, saturated


def _save_png(path: Path, pixels: NDArray[np.uint16], entry: dict[str, Any]) -> None:
    metric = entry["kind"] == "metric"
    unit = "millimeters" if metric else f"1/{entry['png_units_per_unit']:.6g} of the model's own"
    save_image(path, pixels, text={"depth": entry["kind"], "unit": unit})


register_task(Task("depth", DepthWriter, settings=("depth_colors", "tiles"), options=("npy",)))
