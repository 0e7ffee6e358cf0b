"""Predicted depth as files: 16-bit PNG, .npy, color maps with a legend, and a list that states unit and kind."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from pe_spatial.depth.ranges import checked_range
from pe_spatial.depth.scale_bar import depth_picture

_LARGEST = 65535  # of 16 bits


class DepthWriter:
    """Takes the predictions of a run of `tools/predict.py`; safe to call from several threads.

    Below `depth/`, which mirrors the input, metric depth is `<name>_depth_mm.png` (16 bits, millimeters) and, on
    request, `<name>_depth_m.npy` (float32, meters). Relative depth is `<name>_depth_relative.png`, in which 65535
    stands for the far end of the model's range, and `<name>_depth_relative.npy`. The frames of a video are in a
    folder of its name. The PNG says the same in its text entries, and `depth.json` for every file, with the extremes.

    16 bits end at 65.535 m: pixels beyond are saturated, counted in `depth.json` and reported; the .npy has them.

    Args:
        folder: where the files go.
        npy: write .npy files too.
        color_range: (near, far) of the color maps. None takes each image's own 2 % and 98 % quantiles, and the model's
            range for the frames of a video, so that a color means the same in all of them.
    """

    def __init__(self, folder: Path, npy: bool = False, color_range: Sequence[float] | None = None) -> None:
        self.folder = Path(folder)
        self.npy = npy
        self.color_range = None if color_range is None else checked_range(color_range)
        self._entries: list[dict[str, Any]] = []
        self._names: dict[str, str] = {}
        self._lock = threading.Lock()

    def write(self, name: str, image: Tensor, sample: BaseDataElement, frame: int | None = None) -> NDArray[np.uint8]:
        """Write the depth of one image and draw it.

        Args:
            name: file name in the list, relative to the input.
            image: [3, H, W] uint8 RGB, the original image.
            sample: with `pred_depth` in the frame of `image` and the metainfo of `DepthModel`.
            frame: number of the frame where `name` is a video.

        Returns:
            [H', W', 3] uint8 RGB, the color map with its legend; small ones are drawn enlarged.
        """
        depth = sample.pred_depth.data.float().cpu()  # [1, H, W]
        values = depth[0].numpy()
        is_metric, far = bool(sample.depth_is_metric), float(sample.depth_range[1])
        stem = self._stem(name, frame)
        units = 1000.0 if is_metric else _LARGEST / far
        near_color, far_color = self._colors_of(values, sample, frame)
        entry: dict[str, Any] = {
            "file_name": name,
            **({} if frame is None else {"frame": frame}),
            "kind": "metric" if is_metric else "relative",
            "unit": "meters" if is_metric else "none",
            "min": round(float(values.min()), 5),
            "max": round(float(values.max()), 5),
            "color_range": [near_color, far_color],
            "png": f"{stem}_depth_{'mm' if is_metric else 'relative'}.png",
            "png_units_per_unit": units,
            "saturated_pixels": int((values * units >= _LARGEST + 0.5).sum()),
        }
        (self.folder / stem).parent.mkdir(parents=True, exist_ok=True)
        _save_png(self.folder / entry["png"], values * units, entry)
        if self.npy:
            entry["npy"] = f"{stem}_depth_{'m' if is_metric else 'relative'}.npy"
            np.save(self.folder / entry["npy"], values)
        with self._lock:
            self._entries.append(entry)
        return depth_picture(depth, near_color, far_color, is_metric).permute(1, 2, 0).numpy()

    def _stem(self, name: str, frame: int | None) -> str:
        """The path of the files of an image without their endings; two images never have the same."""
        with self._lock:
            stem = Path(name).with_suffix("").as_posix()
            if self._names.setdefault(stem, name) != name:  # a.jpg and a.png
                stem = name
        return f"depth/{stem}" if frame is None else f"depth/{stem}/{frame:06d}"

    def _colors_of(
        self, values: NDArray[np.float32], sample: BaseDataElement, frame: int | None
    ) -> tuple[float, float]:
        if self.color_range is not None:
            return self.color_range
        if frame is not None:
            return float(sample.depth_range[0]), float(sample.depth_range[1])
        near, far = np.quantile(values, (0.02, 0.98))
        return float(near), float(max(far, near * (1 + 1e-3)))

    def close(self) -> Path:
        """Write `depth.json`, whole or not at all, in the order of the names, and return its path."""
        entries = sorted(self._entries, key=lambda entry: (entry["file_name"], entry.get("frame", 0)))
        saturated = sum(entry["saturated_pixels"] > 0 for entry in entries)
        if saturated:
            print_log(
                f"{saturated} depth maps have pixels beyond {_LARGEST / 1000} m, the end of 16 bits in millimeters; "
                "they are saturated in the PNG files: write .npy files too",
                logger="current",
            )
        path = self.folder / "depth.json"
        partial = path.with_suffix(".json.writing")
        partial.write_text(json.dumps({"files": entries}, indent=1))
        partial.replace(path)
        return path


def _save_png(path: Path, values: NDArray[np.float32], entry: dict[str, Any]) -> None:
    text = PngInfo()
    text.add_text("depth", entry["kind"])
    metric = entry["kind"] == "metric"
    text.add_text("unit", "millimeters" if metric else f"1/{entry['png_units_per_unit']:.6g} of the model's own")
    Image.fromarray(np.clip(np.round(values), 0, _LARGEST).astype(np.uint16)).save(path, pnginfo=text)
