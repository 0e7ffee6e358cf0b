"""Depth files to meters: integers (PNG, TIFF) with a stated scale; .npy, .npz, .exr, .pfm and floating TIFF of meters.

Whatever a file holds that cannot be depth is an error that names the file, not a pixel that silently counts as missing:
a wrong unit, in particular, would train without a complaint.
"""

import math
import os
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any, cast
from zipfile import ZipFile

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from numpy.lib import format as npy
from numpy.typing import NDArray
from torchvision import tv_tensors

from pe_spatial.common.contracts import Loader
from pe_spatial.common.errors import AnnotationError, MissingPackage, OptionError, UnreadableFile, few
from pe_spatial.common.memory import check_pixels
from pe_spatial.common.pictures import naming_file, read_values, say_once
from pe_spatial.common.reading import open_regular, require_regular

DEPTH_SUFFIXES = (".png", ".npy", ".exr", ".tif", ".tiff", ".pfm", ".npz")
FARTHEST = 65504.0  # meters: the largest number of half precision; it, 65535 and 1e10 mark the sky
_SATURATED = 65535  # the largest value of 16 bits: farther than the file can say,
_MARK = 16  # where at least so many pixels have it; a lone one is a measurement
# the median depth of a picture in meters, from the endoscope to the aerial photograph; beyond, the unit is wrong
_PLAUSIBLE = (0.02, 400.0)
_MANY = 0.1  # share of the measurements that have the greatest value
_BEYOND = 10  # times the median of the others
_NPZ_NAMES = ("depth.npy", "dep.npy", "z.npy")  # of several arrays, the one that holds depth
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
        farthest: Values from here on, in meters, mark what is too far to be measured, such as the sky; it counts as
            missing, which is said once.
    """

    def __init__(
        self,
        allow_empty: bool = False,
        allow_invalid: bool = False,
        allow_any_unit: bool = False,
        farthest: float = FARTHEST,
    ) -> None:
        if not farthest > 0:
            raise OptionError(f"farthest {farthest} must be above 0 m: larger values mark points that are too far")
        self.allow_empty = allow_empty
        self.allow_invalid = allow_invalid
        self.allow_any_unit = allow_any_unit
        self.farthest = farthest

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
        meters, is_scaled = _read(path, scale)
        far = (meters >= self.farthest) & ~np.isinf(meters)
        present = ~np.isinf(meters) & ~far
        invalid = present & ~(meters >= 0)
        if invalid.any() and not self.allow_invalid:
            raise AnnotationError(f"{path}: {_invalid(meters, present)}")
        if far.any():
            say_once(
                str(path), f"values of {self.farthest:g} m or more mark what is too far, and count as not measured"
            )
        found = np.where(present & ~invalid, meters, np.float32(0))
        measured = found[found > 0]
        if len(measured) == 0:
            if self.allow_empty:
                return found
            raise AnnotationError(
                f"{path}: no pixel has a measurement; remove the file, or set allow_empty=True "
                f"({describe(meters, self.farthest)})"
            )
        if not self.allow_any_unit:
            _check_unit(path, measured, scale if is_scaled else None)
        return found


def describe(meters: NDArray[np.float32], farthest: float = FARTHEST) -> str:
    """What the pixels of a depth map are that hold no measurement."""
    kinds = {
        "0": meters == 0,
        "negative": (meters < 0) & ~np.isinf(meters),
        "NaN": np.isnan(meters),
        "infinite or too far": np.isinf(meters) | (meters >= farthest),
    }
    return ", ".join(f"{int(pixels.sum())} pixels are {kind}" for kind, pixels in kinds.items() if pixels.any())


def _invalid(meters: NDArray[np.float32], present: NDArray[np.bool_]) -> str:
    """What is wrong with values below 0 and NaN, and what to do."""
    negative = int((meters[present] < 0).sum())
    if negative and not (meters[present] > 0).any():
        return (
            f"all its {negative} values other than 0 are negative, but depth is positive: the sign is wrong; multiply "
            "them by -1"
        )
    return (
        f"{int(np.isnan(meters).sum())} pixels are NaN and {negative} negative; 0 and infinity mark missing "
        "measurements: correct the file, or set allow_invalid=True if these do too"
    )


def read_depth(path: str | Path, scale: float | None) -> NDArray[np.float32]:
    """A depth file as float32 [H, W] in meters, unchecked: infinite, NaN and negative values as they are.

    Args:
        path: One of `DEPTH_SUFFIXES`.
        scale: Meters per unit of integers in PNG and TIFF files: 0.001 for millimeters, 1/256 for KITTI. The others
            hold meters. Where many pixels have the largest value of 16 bits, it stands for all that is farther, and
            becomes infinite.

    Raises:
        UnreadableFile: The file is missing, damaged or of another format.
        AnnotationError: Integers without a scale.
    """
    return _read(path, scale)[0]


def _read(path: str | Path, scale: float | None) -> tuple[NDArray[np.float32], bool]:
    """As `read_depth`, and whether the scale was applied."""
    suffix = Path(path).suffix.lower()
    if suffix not in _READERS:
        raise UnreadableFile(f"{path} is not one of {', '.join(DEPTH_SUFFIXES)}; convert it to one of them")
    if suffix == ".png":
        _require_scale(path, scale)
    with naming_file(path):
        values = _READERS[suffix](path)
        while values.ndim > 2 and 1 in (values.shape[0], values.shape[-1]):
            values = values[0] if values.shape[0] == 1 else values[..., 0]
        if values.ndim != 2:
            raise ValueError(f"an array of shape {values.shape} is not a depth map [H, W]")
    if suffix not in _SCALED or values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what single precision cannot hold is infinitely far
            return values.astype(np.float32), False
    _require_scale(path, scale)
    meters = values.astype(np.float32) * np.float32(scale or 0)
    saturated = values == _SATURATED
    if saturated.sum() >= _MARK:
        say_once(str(path), f"the value {_SATURATED}, the largest of 16 bits, marks what is too far: not measured")
        meters[saturated] = np.inf
    return meters, True


def _require_scale(path: str | Path, scale: float | None) -> None:
    if not (scale is not None and scale > 0):
        kind = "a PNG" if Path(path).suffix.lower() == ".png" else "a TIFF of integers"
        raise AnnotationError(
            f"{path}: {kind} needs a scale in meters per unit, but the dataset has {scale}; set depth_scale "
            "(0.001 for millimeters)"
        )


def _read_npy(path: str | Path) -> NDArray[Any]:
    with open_regular(path) as file:
        return _read_array(file, os.fstat(file.fileno()).st_size)


def _read_npz(path: str | Path) -> NDArray[Any]:
    with open_regular(path) as file, ZipFile(file) as parts:
        names = [name for name in parts.namelist() if name.endswith(".npy")]
        chosen = names if len(names) == 1 else [name for name in _NPZ_NAMES if name in names]
        if not chosen:
            raise ValueError(
                f"none of its arrays {few(names, 8)} is called {', '.join(_NPZ_NAMES)}; rename one of them"
            )
        with parts.open(chosen[0]) as array:
            return _read_array(BufferedReader(cast(Any, array)), parts.getinfo(chosen[0]).file_size)


def _read_array(file: BufferedReader, size: int) -> NDArray[Any]:
    """An array of numbers, of whose size in bytes nothing is taken on trust."""
    version = npy.read_magic(file)
    length = file.peek(4)[: 2 if version == (1, 0) else 4]
    if int.from_bytes(length, "little") > _LONGEST_HEADER:
        raise ValueError("its header is longer than that of any array; it is damaged")
    shape, fortran, kind = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if kind.kind not in "fiu" or sum(side != 1 for side in shape) > 2 or len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"an array of {kind} and the shape {shape} is not a depth map [H, W] of numbers")
    count = math.prod(shape)
    check_pixels(count, 1)
    needed, held = count * kind.itemsize, size - file.tell()
    if held < needed:
        raise ValueError(f"an array of the shape {shape} has {needed:,} bytes, but the file has {held:,}")
    content = np.frombuffer(file.read(needed), kind)
    return content.reshape(shape, order="F" if fortran else "C")


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
    if names[0] == "R" and any((channels[name] != channels["R"]).any() for name in ("G", "B") if name in channels):
        raise ValueError("its channels R, G and B differ: it is a color picture, not a depth map")
    return channels[names[0]]


def _read_pfm(path: str | Path) -> NDArray[Any]:
    with open_regular(path) as file:
        if file.read(2) == b"PF":
            raise ValueError("a PFM with three bands is not a depth map; save it with one band (Pf)")
    return read_values(path)


_READERS: dict[str, Callable[[str | Path], NDArray[Any]]] = {
    **dict.fromkeys((".png", ".tif", ".tiff"), read_values),
    ".pfm": _read_pfm,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".exr": _read_exr,
}
_SCALED = (".png", ".tif", ".tiff")  # hold integers of a unit; floating-point TIFF is of meters


def _check_unit(path: str | Path, measured: NDArray[np.float32], scale: float | None) -> None:
    """Refuse measurements whose median no camera sees.

    Args:
        path: For messages.
        measured: In meters, at least one.
        scale: That was applied, None for files of meters.
    """
    median = float(np.median(measured))
    if _is_plausible(median):
        return
    _refuse_a_mark(path, measured)
    factor, unit = (0.001, "millimeters") if median > _PLAUSIBLE[1] else (1000.0, "meters")
    likely = (
        f"; it looks like {unit}, with a median of {median * factor:.3g} m" if _is_plausible(median * factor) else ""
    )
    if scale is not None:
        remedy = f"depth_scale {scale:g} may have to be {factor * scale:.3g}"
    else:
        remedy = f"{Path(path).suffix} files hold meters: multiply the values by {factor:g}"
    if median > _PLAUSIBLE[1] and _is_plausible(median / 100):
        remedy += f" ({(scale or 1) / 100:g} if they are centimeters, with a median of {median / 100:.3g} m)"
    raise AnnotationError(
        f"{path}: the median depth is {median:.3g} m, outside {_PLAUSIBLE[0]:g} to {_PLAUSIBLE[1]:g} m{likely}. "
        f"{remedy}; if the unit is right, set allow_any_unit=True"
    )


def _refuse_a_mark(path: str | Path, measured: NDArray[np.float32]) -> None:
    """Refuse measurements of which many have one value, far beyond the others: it marks what is too far."""
    greatest = float(measured.max())
    nearer = measured[measured < greatest]
    share = 1 - len(nearer) / len(measured)
    median = float(np.median(nearer)) if len(nearer) else math.inf
    if share > _MANY and _is_plausible(median) and greatest > _BEYOND * median:
        raise AnnotationError(
            f"{path}: {share:.0%} of its measurements are exactly {greatest:g} m, and the others have a median of "
            f"{median:.3g} m: this value probably marks points that are too far, such as the sky; set "
            f"farthest={greatest:g} in LoadDepthMap, or allow_any_unit=True if it was measured"
        )


def _is_plausible(median: float) -> bool:
    return _PLAUSIBLE[0] <= median <= _PLAUSIBLE[1]
