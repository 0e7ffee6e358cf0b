"""ADE20K, Cityscapes, Pascal VOC, COCO-Stuff and folders of your own, as pairs of an image and a label map.

The metainfo of each has `classes`, names by index, and `palette`, [[r, g, b], …] in the same order.
"""

from pathlib import Path
from typing import Any, Literal

from mmengine.registry import DATASETS
from mmseg.utils import class_names

from pe_spatial.common.errors import AnnotationError, few, require_choice
from pe_spatial.common.reading import read_text
from pe_spatial.data import DenseDataset
from pe_spatial.data.pairs import Affixes, find_absent, pair_by_name
from pe_spatial.data.sample import IGNORE_LABEL
from pe_spatial.segmentation.class_list import read_class_list
from pe_spatial.segmentation.labels import LabelFormat

LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
# the label ids of Cityscapes' 19 evaluated classes, in the order of their train ids
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# COCO's category ids that no annotation uses; pixel maps hold category id - 1
_COCO_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)

Numbering = Literal["ids", "train_ids"]


def _classes_of(name: str) -> dict[str, Any]:
    """Names and colors from mmseg's tables; one of its names ends in a space."""
    names = tuple(entry.strip() for entry in class_names.get_classes(name))
    return {"classes": names, "palette": class_names.get_palette(name)}


class SegmentationDataset(DenseDataset):
    """Records with `img_path`, `seg_map_path` and `label_format`.

    A subclass sets `label_format` in its constructor, or in `load_data_list`, which it may write anew.

    Args:
        data_prefix: The folders `img_path` and `seg_map_path`, relative to `data_root`.
        **kwargs: Those of `DenseDataset`.
    """

    label_format: LabelFormat
    affixes = Affixes()
    has_affix_settings = False

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image; images and label maps are named alike but for the suffix and `affixes`.

        Raises:
            FileNotFoundError: A folder is missing.
            OptionError: An image without a label map or with two; or a label map without an image.
        """
        pairs = pair_by_name(
            self.data_prefix, "seg_map_path", LABEL_SUFFIXES, "label map", self.affixes, self.has_affix_settings
        )
        return [_record(number, *pair) for number, pair in enumerate(pairs)]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """The record of a row; the label format is shared among records instead of stored in each."""
        record = super().get_data_info(idx)
        return {**record, "label_format": self.label_format}


def _record(number: int, img_path: str | Path, seg_map_path: str | Path) -> dict[str, Any]:
    return {"img_path": str(img_path), "img_id": number, "seg_map_path": str(seg_map_path)}


@DATASETS.register_module()
class ADE20K(SegmentationDataset):
    """ADE20K's scene parsing benchmark: 150 classes, 20210 images to train, 2000 to validate.

    The files count the classes from 1; 0 means another class.
    """

    METAINFO = {**_classes_of("ade"), "dataset": "ADE20K"}
    label_format = LabelFormat.counting(METAINFO["classes"], zero_is_ignored=True)


class _NumberedTwice(SegmentationDataset):
    """A dataset whose label maps come in two numberings, in files that end differently.

    Args:
        numbering: "ids": the files of the archive; "train_ids": files converted to 0…K-1, which end in `labelTrainIds`.
        **kwargs: Those of `SegmentationDataset`.
    """

    ends: dict[Numbering, tuple[str, str]]  # of images and of label maps
    formats: dict[Numbering, LabelFormat]

    def __init__(self, numbering: Numbering = "ids", **kwargs: Any) -> None:
        require_choice("numbering", numbering, self.ends)
        image_end, label_end = self.ends[numbering]
        self.affixes, self.label_format = Affixes(("", image_end), ("", label_end)), self.formats[numbering]
        super().__init__(**kwargs)


@DATASETS.register_module()
class Cityscapes(_NumberedTwice):
    """Cityscapes, fine annotations: 19 evaluated classes; 2975 images to train, 500 to validate.

    Args:
        numbering: "ids": `*_gtFine_labelIds.png` of the archive, where the other classes become "no label";
            "train_ids": `*_gtFine_labelTrainIds.png`, which the cityscapesScripts write.
        **kwargs: Those of `SegmentationDataset`.
    """

    METAINFO = {**_classes_of("cityscapes"), "dataset": "Cityscapes"}
    ends = {"ids": ("_leftImg8bit", "_gtFine_labelIds"), "train_ids": ("_leftImg8bit", "_gtFine_labelTrainIds")}
    formats = {
        "ids": LabelFormat(
            METAINFO["classes"],
            dict.fromkeys((*range(34), IGNORE_LABEL), IGNORE_LABEL)  # 255: the license plates' -1 in 8 bits
            | {value: index for index, value in enumerate(_CITYSCAPES_IDS)},
        ),
        "train_ids": LabelFormat.counting(METAINFO["classes"]),
    }


@DATASETS.register_module()
class COCOStuff(_NumberedTwice):
    """COCO-Stuff 164k: 80 things and 91 stuff classes on the images of COCO 2017.

    Args:
        numbering: "ids": `stuffthingmaps` of the archive, whose values 0…181 leave out the ids that COCO does not use;
            "train_ids": files `*_labelTrainIds.png` with the values 0…170.
        **kwargs: Those of `SegmentationDataset`.
    """

    METAINFO = {**_classes_of("cocostuff"), "dataset": "COCO-Stuff"}
    ends = {"ids": ("", ""), "train_ids": ("", "_labelTrainIds")}
    formats = {
        "ids": LabelFormat(
            METAINFO["classes"],
            {IGNORE_LABEL: IGNORE_LABEL}
            | {number - 1: index for index, number in enumerate(n for n in range(1, 183) if n not in _COCO_UNUSED)},
        ),
        "train_ids": LabelFormat.counting(METAINFO["classes"]),
    }


@DATASETS.register_module()
class PascalVOC(SegmentationDataset):
    """Pascal VOC 2012: background and 20 classes; 1464 images to train, 1449 to validate. 255: borders.

    With the label maps of the SBD in one folder `SegmentationClassAug` and a list of 10582 names the same class is the
    augmented training set.

    Args:
        ann_file: List of names, such as `ImageSets/Segmentation/train.txt`.
        data_prefix: The folders `img_path` (.jpg) and `seg_map_path` (.png).
        **kwargs: Those of `DenseDataset`.
    """

    METAINFO = {**_classes_of("voc"), "dataset": "Pascal VOC 2012"}
    label_format = LabelFormat.counting(METAINFO["classes"])

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per name.

        Raises:
            AnnotationError: No such list, or a name without an image or a label map.
        """
        if not Path(self.ann_file).is_file():
            raise AnnotationError(f"{self.ann_file}: no such list of names; check data_root and ann_file")
        names = read_text(self.ann_file).split()
        images, labels = (Path(self.data_prefix[key]) for key in ("img_path", "seg_map_path"))
        records = [_record(number, images / f"{n}.jpg", labels / f"{n}.png") for number, n in enumerate(names)]
        absent = find_absent(record[key] for record in records for key in ("img_path", "seg_map_path"))
        if absent:
            raise AnnotationError(
                f"{self.ann_file}: {len(absent)} files of its {len(names)} names are missing: {few(absent)}; restore "
                "them, or shorten the list"
            )
        return records


@DATASETS.register_module()
class SegmentationFolder(SegmentationDataset):
    """Your own images and label maps, described by one YAML file (see `pe_spatial.segmentation.class_list`).

    Args:
        ann_file: The YAML file, relative to `data_root`. The folders in it are relative to itself.
        split: Which of its folders.
        **kwargs: Those of `DenseDataset`.
    """

    has_affix_settings = True

    def __init__(self, ann_file: str, split: str, **kwargs: Any) -> None:
        self.split = split
        super().__init__(ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image.

        Raises:
            ConfigError: The file is missing or not a class list; or no such split.
            FileNotFoundError, OptionError: As in `SegmentationDataset`.
        """
        classes = read_class_list(self.ann_file)
        self.label_format = classes.label_format
        self._metainfo.update(classes=classes.label_format.classes, palette=classes.palette)
        self.data_prefix = classes.folders(self.split)
        self.affixes = classes.affixes
        rule = {"value_range": classes.rule.value_range, "bands": classes.rule.bands}
        self._metainfo.update({name: list(value) for name, value in rule.items() if value is not None})
        return super().load_data_list()
