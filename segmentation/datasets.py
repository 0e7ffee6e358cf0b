"""ADE20K, Cityscapes, Pascal VOC, COCO-Stuff and folders of your own, as pairs of an image and a label map.

The metainfo of each has `classes`, names by index, and `palette`, [[r, g, b], …] in the same order.
"""

from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS
from mmseg.utils import class_names

from pe_spatial.data import DenseDataset
from pe_spatial.data.pairs import pair_by_name
from segmentation.class_list import read_class_list
from segmentation.labels import LabelFormat

LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


def _classes_of(name: str) -> dict[str, Any]:
    return {"classes": tuple(class_names.get_classes(name)), "palette": class_names.get_palette(name)}


class SegmentationDataset(DenseDataset):
    """Records with `img_path`, `seg_map_path` and `label_format`.

    A subclass sets `label_format` in its constructor, or in `load_data_list`, which it may write anew.

    Args:
        data_prefix: The folders `img_path` and `seg_map_path`, relative to `data_root`.
        **kwargs: Those of `DenseDataset`.
    """

    label_format: LabelFormat
    stem_ends = ("", "")

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image; images and label maps are named alike but for the suffix and `stem_ends`.

        Raises:
            FileNotFoundError: A folder is missing.
            ValueError: An image without a label map or with two; or a label map without an image.
        """
        pairs = pair_by_name(self.data_prefix, "seg_map_path", LABEL_SUFFIXES, "label map", self.stem_ends)
        return [_record(number, *pair) for number, pair in enumerate(pairs)]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """The record of a row; the label format is shared among records instead of stored in each."""
        record = super().get_data_info(idx)
        return {**record, "label_format": self.label_format}


def _record(number: int, img_path: str | Path, seg_map_path: str | Path) -> dict[str, Any]:
    return {"img_path": str(img_path), "img_id": number, "seg_map_path": str(seg_map_path)}


@DATASETS.register_module()
class ADE20K(SegmentationDataset):
    """ADE20K's scene parsing benchmark: 150 classes, which its files count from 1 (0: other); 20210 images to train,
    2000 to validate."""

    METAINFO = {**_classes_of("ade"), "dataset": "ADE20K"}
    label_format = LabelFormat.counting(METAINFO["classes"], zero_is_ignored=True)


@DATASETS.register_module()
class SegmentationFolder(SegmentationDataset):
    """Your own images and label maps, described by one YAML file (see `segmentation.class_list`).

    Args:
        ann_file: The YAML file, relative to `data_root`. The folders in it are relative to itself.
        split: Which of its folders.
        **kwargs: Those of `DenseDataset`.
    """

    def __init__(self, ann_file: str, split: str, **kwargs: Any) -> None:
        self.split = split
        super().__init__(ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image.

        Raises:
            ConfigError: The file is missing or not a class list; or no such split.
            FileNotFoundError, ValueError: As in `SegmentationDataset`.
        """
        classes = read_class_list(self.ann_file)
        self.label_format = classes.label_format
        self._metainfo.update(classes=classes.label_format.classes, palette=classes.palette)
        self.data_prefix = classes.folders(self.split)
        self.stem_ends = ("", classes.label_stem_end)
        return super().load_data_list()
