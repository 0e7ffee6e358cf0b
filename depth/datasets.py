"""NYUv2, KITTI and folders of your own, as pairs of an image and a depth map."""

from collections.abc import Callable, Sequence
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from pe_spatial.common.errors import AnnotationError, OptionError, UnreadableFile
from pe_spatial.common.reading import read_text
from pe_spatial.data import DenseDataset
from pe_spatial.data.annotations import file_below
from pe_spatial.data.pairs import Affixes, pair_by_name
from pe_spatial.depth.loading import DEPTH_SUFFIXES, LoadDepthMap
from pe_spatial.depth.ranges import checked_range

_MEASURED = 100  # depth maps that a range is taken from


def _two_digits(meters: float, rounded: Callable[[float], int]) -> float:
    """A number of meters with two digits, rounded down or up."""
    unit = 10.0 ** (floor(log10(meters)) - 1)
    return round(rounded(meters / unit) * unit, 9)


class DepthDataset(DenseDataset):
    """Records with `img_path`, `depth_path` and `depth_scale`; a subclass writes `load_data_list`.

    Args:
        *args, **kwargs: Those of `DenseDataset`.
        depth_scale: Meters per unit of the PNG files; None where there are none, or where the dataset is known to have
            `known_scale`.
        depth_range: Where given, at least one pixel of the dataset must lie inside, (least, greatest) in meters.
    """

    METAINFO = {"depth_unit": "meters"}
    known_scale: float | None = None  # of the PNG files of this dataset

    def __init__(
        self, *args: Any, depth_scale: float | None = None, depth_range: Sequence[float] | None = None, **kwargs: Any
    ) -> None:
        depth_scale = self.known_scale if depth_scale is None else depth_scale
        if depth_scale is not None and not depth_scale > 0:
            raise OptionError(f"depth_scale {depth_scale} is not a positive number of meters per unit of the PNG files")
        self.depth_scale = depth_scale
        self.depth_range = None if depth_range is None else checked_range(depth_range)
        super().__init__(*args, **kwargs)

    def full_init(self) -> None:
        """Load the records and look at the first depth maps.

        Raises:
            OptionError: No record, a depth map in another unit, or none with a pixel in `depth_range`.
        """
        if self._fully_initialized:
            return
        super().full_init()
        if self.depth_range is not None:
            self._require_range(*self.depth_range)

    def measured_range(self) -> tuple[float, float]:
        """(least, greatest) measurement in meters, to two digits outward; of up to 100 depth maps, evenly spaced.

        Raises:
            OptionError: No pixel holds a measurement.
            UnreadableFile, AnnotationError: As of `LoadDepthMap`.
        """
        loader = self._loader()
        nearest, farthest = float("inf"), 0.0
        for index in range(0, len(self), max(len(self) // _MEASURED, 1)):
            record = self.get_data_info(index)
            depth = loader.read(record["depth_path"], record["depth_scale"])
            measured = depth[depth > 0]
            if len(measured):
                nearest, farthest = min(nearest, float(measured.min())), max(farthest, float(measured.max()))
        if farthest == 0:
            raise OptionError(f"no pixel of {type(self).__name__} has a measurement: {self._what_lacks(loader)}")
        return _two_digits(nearest, floor), _two_digits(farthest, ceil)

    def _loader(self) -> LoadDepthMap:
        """The pipeline's, which also takes maps without measurements."""
        own = next((step for step in self.pipeline.transforms if isinstance(step, LoadDepthMap)), LoadDepthMap())
        return LoadDepthMap(True, True, own.allow_any_unit, own.farthest)

    def _require_range(self, least: float, greatest: float) -> None:
        """Read depth maps until one has a pixel in the range, which is the first one of any sensible dataset."""
        loader = self._loader()
        nearest, farthest = float("inf"), 0.0
        for index in range(len(self)):
            record = self.get_data_info(index)
            try:
                depth = loader.read(record["depth_path"], record["depth_scale"])
            except UnreadableFile:
                if self.unreadable == "raise":
                    raise
                continue
            measured = depth[depth > 0]
            if ((measured >= least) & (measured <= greatest)).any():
                return
            if len(measured):
                nearest, farthest = min(nearest, float(measured.min())), max(farthest, float(measured.max()))
        size = f"{type(self).__name__} ({len(self)} depth maps)"
        if farthest == 0:
            raise OptionError(f"no pixel of {size} has a measurement: {self._what_lacks(loader)}")
        raise OptionError(
            f"no pixel of {size} is inside depth_range {least:g} to {greatest:g} m: its measurements reach from "
            f"{nearest:g} to {farthest:g} m; correct depth_range or depth_scale"
        )

    def _what_lacks(self, loader: LoadDepthMap) -> str:
        """What the first depth map that can be read holds instead of measurements."""
        for index in range(len(self)):
            record = self.get_data_info(index)
            try:
                LoadDepthMap(allow_any_unit=True, farthest=loader.farthest).read(
                    record["depth_path"], record["depth_scale"]
                )
            except UnreadableFile:
                continue
            except AnnotationError as error:
                return str(error)
        return "no depth map can be read"

    def _record(self, number: int, img_path: str | Path, depth_path: str | Path) -> dict[str, Any]:
        return {
            "img_path": str(img_path),
            "img_id": number,
            "depth_path": str(depth_path),
            "depth_scale": self.depth_scale,
        }


class SplitFileDataset(DepthDataset):
    """Pairs from a split file with one line per pair: image, depth map, and (ignored) the focal length.

    This is the format of the Eigen splits that BTS, AdaBins and DINOv3 use. Paths are relative to the folders; a
    leading slash is dropped. Pairs whose depth map is `None` (45 of KITTI's 697 test images) are left out.

    Args:
        ann_file: The split file, relative to `data_root`.
        data_prefix: The folders `img_path` and `depth_path`, relative to `data_root`.
        **kwargs: Those of `DepthDataset`.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per line.

        Raises:
            OptionError: A line of another form.
            AnnotationError: A path that leaves its folder.
        """
        folders = self.data_prefix
        records: list[dict[str, Any]] = []
        for number, line in enumerate(read_text(self.ann_file).splitlines(), start=1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) not in (2, 3):
                raise OptionError(f"{self.ann_file}:{number}: {line!r} is not 'image depth [focal length]'")
            if fields[1] == "None":
                continue
            image, depth = (
                file_below(folders.get(key, ""), field.lstrip("/"), f"{self.ann_file}:{number}")
                for key, field in zip(("img_path", "depth_path"), fields, strict=False)
            )
            records.append(self._record(len(records), image, depth))
        return records


@DATASETS.register_module()
class NyuDepth(SplitFileDataset):
    """NYUv2, Eigen split: 24231 pairs to train (BTS's list) and 654 to test, 480x640, PNG in millimeters."""

    METAINFO = {**DepthDataset.METAINFO, "dataset": "NYUv2"}
    known_scale = 0.001


@DATASETS.register_module()
class KittiDepth(SplitFileDataset):
    """KITTI, Eigen split, improved ground truth: 23158 pairs to train and 652 to test, PNG in 1/256 meters."""

    METAINFO = {**DepthDataset.METAINFO, "dataset": "KITTI"}
    known_scale = 1 / 256


@DATASETS.register_module()
class DepthFolder(DepthDataset):
    """Your own pairs: a folder of images and one of depth maps, named alike but for the suffix and what is stated here.

    Depth maps end in one of `DEPTH_SUFFIXES`. Subfolders are searched, and are part of the name.

    Args:
        *args, **kwargs: Those of `DepthDataset`; `data_prefix` names the folders `img_path` and `depth_path`.
        image_stem_start: What the names of images begin with besides the name that they share with the depth map.
        image_stem_end: What they end with, before the suffix.
        label_stem_start: Likewise of depth maps.
        label_stem_end: Likewise, such as `_depth`.
    """

    def __init__(
        self,
        *args: Any,
        image_stem_start: str = "",
        image_stem_end: str = "",
        label_stem_start: str = "",
        label_stem_end: str = "",
        **kwargs: Any,
    ) -> None:
        self.affixes = Affixes((image_stem_start, image_stem_end), (label_stem_start, label_stem_end))
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image.

        Raises:
            FileNotFoundError: A folder is missing.
            OptionError: An image without a depth map, or with two; or a depth map without an image.
        """
        pairs = pair_by_name(self.data_prefix, "depth_path", DEPTH_SUFFIXES, "depth map", self.affixes, settings=True)
        return [self._record(number, *pair) for number, pair in enumerate(pairs)]
