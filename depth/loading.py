"""Depth files to meters: 16-bit PNG with a stated scale, .npy and .exr of meters.

Whatever a file holds that cannot be depth is an error that names the file, not a pixel that silently counts as missing:
a wrong unit, in particular, would train without a complaint.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from numpy.lib import format as npy
from numpy.typing import NDArray
from torchvision import tv_tensors

from pe_spatial.common.contracts import Loader
from pe_spatial.common.errors import AnnotationError, MissingPackage, UnreadableFile
from pe_spatial.common.memory import check_pixels
from pe_spatial.common.pictures import naming_file, read_values
from pe_spatial.common.reading import open_regular, require_regular

DEPTH_SUFFIXES = (".png", ".npy", ".exr")
# the median depth of a picture in meters, from the endoscope to the aerial photograph; beyond, the unit is wrong
_PLAUSIBLE = (0.02, 400.0)
_LONGEST_HEADER = 10_000  # bytes of a .npy file
# how an .exr channel that holds depth is called: the standard's name, then those that exporters use
_EXR_CHANNELS = ("Z", "Y", "V", "R", "depth.Z", "Depth.Z", "Depth.V")


@TRANSFORMS.register_module()
class LoadDepthMap(Loader):
    """`depth_path` to `depth`: float32 [1, H, W] meters, 0 = no measurement.

    The scale of a PNG comes with the record, for it belongs to the dataset: `depth_scale`, meters per unit.

    Args:
        allow_empty: Accept maps without any measurement.
        allow_invalid: Negative values and NaN mark missing measurements in these files, as 0 and infinity always do.
        allow_any_unit: Do not ask whether the median depth is plausible.
    """

    def __init__(self, allow_empty: bool = False, allow_invalid: bool = False, allow_any_unit: bool = False) -> None:
        self.allow_empty = allow_empty
        self.allow_invalid = allow_invalid
        self.allow_any_unit = allow_any_unit

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Load one depth map in the frame of the decoded image.

        Raises:
            UnreadableFile: The file is missing, damaged or of another format.
            AnnotationError: Another size than the image, or contents that are not depth in the stated unit.
        """
        self.frame(sample)  # first of all: without an image, nothing that the file says matters
        depth = self.read(sample["depth_path"], sample.get("depth_scale"))
        self.check_size(sample["depth_path"], depth.shape, sample)
        return {**sample, "depth": tv_tensors.Mask(torch.from_numpy(depth)[None])}

    def read(self, path: str | Path, scale: float | None) -> NDArray[np.float32]:
        """One checked depth map [H, W] in meters; errors as above."""
        meters = read_depth(path, scale)
        present = ~np.isinf(meters)
        invalid = present & ~(meters >= 0)
        if invalid.any() and not self.allow_invalid:
            raise AnnotationError(
                f"{path}: {int(np.isnan(meters).sum())} pixels are NaN and {int((meters < 0).sum())} negative; 0 and "
                "infinity mark missing measurements: correct the file, or set allow_invalid=True if these do too"
            )
        meters = np.where(present & ~invalid, meters, np.float32(0))
        measured = meters[meters > 0]
        if len(measured) == 0:
            if self.allow_empty:
                return meters
            raise AnnotationError(f"{path}: no pixel holds a measurement; remove the file, or set allow_empty=True")
        if not self.allow_any_unit:
            _check_unit(path, float(np.median(measured)), scale)
        return meters


def read_depth(path: str | Path, scale: float | None) -> NDArray[np.float32]:
    """A depth file as float32 [H, W] in meters, unchecked: infinite, NaN and negative values as they are.

    Args:
        path: .png, .npy or .exr.
        scale: Meters per unit of a PNG: 0.001 for millimeters, 1/256 for KITTI. The others hold meters.

    Raises:
        UnreadableFile: The file is missing, damaged or of another format.
        AnnotationError: A PNG without a scale.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _READERS:
        raise UnreadableFile(f"{path} is not one of {', '.join(DEPTH_SUFFIXES)}; convert it to one of them")
    if suffix == ".png" and not (scale is not None and scale > 0):
        raise AnnotationError(
            f"{path}: a PNG needs its scale, meters per unit, but the dataset says {scale}; set depth_scale "
            "(0.001 for millimeters)"
        )
    with naming_file(path):
        values = _READERS[suffix](path)
        if values.ndim != 2:
            raise ValueError(f"an array of shape {values.shape} is not a depth map [H, W]")
    return values.astype(np.float32) * np.float32(scale) if suffix == ".png" else values.astype(np.float32)


def _read_npy(path: str | Path) -> NDArray[Any]:
    with open_regular(path) as file:
        old = npy.read_magic(file) == (1, 0)
        if int.from_bytes(file.peek(4)[: 2 if old else 4], "little") > _LONGEST_HEADER:
            raise ValueError("its header is longer than that of any array; it is damaged")
        shape, _, kind = (npy.read_array_header_1_0 if old else npy.read_array_header_2_0)(file)
        if kind.kind not in "fiu" or len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"an array of {kind} and the shape {shape} is not a depth map [H, W] of numbers")
        check_pixels(*shape)
        needed, held = shape[0] * shape[1] * kind.itemsize, os.fstat(file.fileno()).st_size - file.tell()
        if held < needed:
            raise ValueError(f"an array of the shape {shape} has {needed:,} bytes, and the file holds {held:,}")
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)


def _read_exr(path: str | Path) -> NDArray[Any]:
    require_regular(path)
    try:
        import OpenEXR
    except ImportError:
        raise MissingPackage(f"{path}: .exr needs the package OpenEXR; pip install 'pe_spatial[exr]'") from None
    with OpenEXR.File(str(path), header_only=True) as file:
        (left, top), (right, bottom) = file.header()["dataWindow"]
    check_pixels(int(bottom) - int(top) + 1, int(right) - int(left) + 1)
    with OpenEXR.File(str(path), separate_channels=True) as file:
        channels = {name: channel.pixels for name, channel in file.channels().items()}
    names = list(channels) if len(channels) == 1 else [name for name in _EXR_CHANNELS if name in channels]
    if not names:
        raise ValueError(f"none of its channels {', '.join(channels)} is called {', '.join(_EXR_CHANNELS)}")
    return channels[names[0]]


_READERS: dict[str, Callable[[str | Path], NDArray[Any]]] = {".png": read_values, ".npy": _read_npy, ".exr": _read_exr}


def _check_unit(path: str | Path, median: float, scale: float | None) -> None:
    if _is_plausible(median):
        return
    factor, unit = (0.001, "millimeters") if median > _PLAUSIBLE[1] else (1000.0, "meters")
    likely = (
        f"; it looks like {unit}, with a median of {median * factor:.3g} m" if _is_plausible(median * factor) else ""
    )
    if Path(path).suffix.lower() == ".png":
        remedy = f"depth_scale {scale:g} may have to be {factor * (scale or 1):.3g}"
    else:
        remedy = f"{Path(path).suffix} files hold meters: multiply the values by {factor:g}"
    raise AnnotationError(
        f"{path}: the median depth is {median:.3g} m, outside {_PLAUSIBLE[0]:g} to {_PLAUSIBLE[1]:g} m{likely}. "
        f"{remedy}; if the unit is right, set allow_any_unit=True"
    )


def _is_plausible(median: float) -> bool:
    return _PLAUSIBLE[0] <= median <= _PLAUSIBLE[1]
