"""What the data says that a config has to repeat, such as the number of classes, and what to tell of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pe_spatial.common.errors import AnnotationError, few
from pe_spatial.common.trees import joined
from pe_spatial.doctor.examination import ExaminationOptions, examine_dataset
from pe_spatial.own.models import Model

_SHOWN = 12  # classes of a histogram
_SECONDS = 1.0  # for the label maps of a part


def data_settings(task: str, model: Model, train: Any, val: Any) -> tuple[dict[str, Any], list[str]]:
    """Sections of the config that follow from the data, and what to tell of them.

    Raises:
        AnnotationError: The parts have different classes, or the data lacks what the task learns.
    """
    classes = None if model.is_student else train.metainfo.get("classes")
    settings: dict[str, Any] = {}
    if classes is not None:
        _require_same_classes(train.metainfo, val.metainfo)
        settings = {"model": {"num_classes": len(classes)}}
    if task in ("detection", "instances"):
        found, lines = _mask_settings(task, model, train, val)
        return joined(settings, found), lines
    if task == "panoptic":
        things = [label for label, is_thing in enumerate(train.metainfo["is_thing"]) if is_thing]
        return joined(settings, {"model": {"things": things}}), []
    if task == "depth":
        ranges = train.measured_range(), val.measured_range()
        least, greatest = min(low for low, _ in ranges), max(high for _, high in ranges)
        line = f"depth: {least:g} to {greatest:g} m are measured, which the model's range is set to"
        return {"_depth_range": [least, greatest]}, [line]
    return settings, []


def _require_same_classes(train: Mapping[str, Any], val: Mapping[str, Any]) -> None:
    if tuple(train["classes"]) != tuple(val["classes"]):
        only = [few(sorted(set(a["classes"]) - set(b["classes"])), 5) for a, b in ((train, val), (val, train))]
        what = f"only in training: {only[0] or 'none'}; only in validation: {only[1] or 'none'}"
        raise AnnotationError(
            f"the parts of the data list different classes ({what}); give both the same list of classes"
        )


def _mask_settings(task: str, model: Model, train: Any, val: Any) -> tuple[dict[str, Any], list[str]]:
    """Whether Mask R-CNN learns masks, and how they are written."""
    counts = train.metainfo["mask_counts"]
    total, without = sum(counts.values()), counts["none"]
    if total == 0:
        raise AnnotationError(f"{train.ann_file}: the training part has no objects")
    if task == "instances" and without:
        raise AnnotationError(
            f"{train.ann_file}: {without} of {total} objects have no mask, but the task instances needs masks; "
            "annotate them, or use the task detection, which needs only boxes"
        )
    if "mask_rcnn" not in model.family.recipe:
        return {}, []
    if without:
        line = f"boxes only: {without} of {total} objects have no mask"
        entries = {"_masks": False, "model": {"roi_heads": {"masks": False}}, "val_evaluator": {"iou_types": ["bbox"]}}
        return entries, [line]
    formats = {"_mask_format": "bitmask"} if train.holds_bitmaps() or val.holds_bitmaps() else {}
    return formats, ["boxes and masks: every object has a mask"] if task == "detection" else []


def split_lines(train: Any, val: Any, classes: bool = True) -> list[str]:
    """Images of both parts, how often each class occurs, and the classes that occur in one of them only.

    Label maps are read for a second at most in each part.

    Args:
        train: The dataset of the training part, whose pipeline loads its labels.
        val: That of the validation part.
        classes: Whether they matter.
    """
    parts = {"train": train, "val": val}
    counted = {name: _count(dataset) if classes else _Counted() for name, dataset in parts.items()}
    lines = [f"  {name}: {len(dataset)} images{counted[name].text}" for name, dataset in parts.items()]
    for here, there, text in (
        ("train", "val", "in training only, so that no score tells of them"),
        ("val", "train", "in validation only, so that they cannot be learned"),
    ):
        names = [name for name, count in counted[here].counts.items() if count and not counted[there].counts[name]]
        if names:
            remark = "" if counted[there].is_whole else f", as far as the sample of {there} tells"
            lines.append(f"  classes that occur {text}{remark}: {len(names)} ({few(names, _SHOWN)})")
    return lines


@dataclass(frozen=True)
class _Counted:
    """How often each class occurs in a part.

    Attributes:
        counts: Objects or pixels by class; empty for data without classes.
        text: The most frequent ones, in words.
        is_whole: Whether all images were looked at.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    text: str = ""
    is_whole: bool = True


def _count(dataset: Any) -> _Counted:
    if "classes" not in dataset.metainfo:
        return _Counted()
    if hasattr(dataset, "class_counts"):
        counts = dataset.class_counts()
        shown = few((f"{name} {count}" for name, count in _frequent(counts)), _SHOWN)
        return _Counted(counts, f", {sum(counts.values())} objects of {len(counts)} classes: {shown}")
    report = examine_dataset("", dataset, ExaminationOptions(seconds=_SECONDS, thorough=False))
    histogram = next((found for found in report.histograms if found.unit == "pixels"), None)
    if histogram is None or not report.seen:
        return _Counted()
    counts = dict(zip(histogram.names, histogram.counts, strict=True))
    images = dict(zip(histogram.names, histogram.images, strict=True))
    total, is_whole = max(sum(counts.values()), 1), report.seen == len(dataset)
    shown = few(
        (f"{name} {count / total:.1%} / {images[name] / report.seen:.0%}" for name, count in _frequent(counts)), _SHOWN
    )
    of = "the images" if is_whole else f"a sample of {report.seen} images"
    text = f"; {len(counts)} classes, shares of the labeled pixels / of {of}: {shown}"
    return _Counted(counts, text, is_whole)


def _frequent(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """(class, count) of those that occur, the most frequent first."""
    return sorted(((name, count) for name, count in counts.items() if count), key=lambda item: -item[1])
