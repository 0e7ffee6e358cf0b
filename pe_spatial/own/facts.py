"""What the data says that a config has to repeat, such as the number of classes, and what to tell of it."""

from collections.abc import Mapping
from typing import Any

from pe_spatial.common.errors import AnnotationError, few
from pe_spatial.common.trees import joined
from pe_spatial.own.models import Model

_SHOWN = 12  # classes of a histogram


def data_settings(task: str, model: Model, train: Any, val: Any) -> tuple[dict[str, Any], list[str]]:
    """Sections of the config that follow from the data, and what to tell of them.

    Raises:
        AnnotationError: The parts have different classes, or the data lacks what the task learns.
    """
    classes = train.metainfo.get("classes")
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
        raise AnnotationError(f"the parts of the data list different classes ({what}); give both one list of classes")


def _mask_settings(task: str, model: Model, train: Any, val: Any) -> tuple[dict[str, Any], list[str]]:
    """Whether Mask R-CNN learns masks, and how they are written."""
    counts = train.metainfo["mask_counts"]
    total, without = sum(counts.values()), counts["none"]
    if total == 0:
        raise AnnotationError(f"{train.ann_file}: the training part has no object to learn")
    if task == "instances" and without:
        raise AnnotationError(
            f"{train.ann_file}: {without} of {total} objects have no mask, and the task instances learns masks; "
            "annotate them, or train the task detection, which needs boxes only"
        )
    if "mask_rcnn" not in model.family.recipe:
        return {}, []
    if without:
        line = f"boxes only: {without} of {total} objects have no mask"
        entries = {"_masks": False, "model": {"roi_heads": {"masks": False}}, "val_evaluator": {"iou_types": ["bbox"]}}
        return entries, [line]
    formats = {"_mask_format": "bitmask"} if train.holds_bitmaps() or val.holds_bitmaps() else {}
    return formats, ["boxes and masks: every object has a mask"] if task == "detection" else []


def part_lines(name: str, dataset: Any) -> list[str]:
    """Images, objects and classes of a part."""
    text = f"  {name}: {len(dataset)} images"
    if not hasattr(dataset, "class_counts"):
        return [text]
    counts = dataset.class_counts()
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown = few((f"{each} {count}" for each, count in ordered if count), _SHOWN)
    return [f"{text}, {sum(counts.values())} objects of {len(counts)} classes: {shown}"]


def lone_class_lines(train: Any, val: Any) -> list[str]:
    """Classes that occur in one part only."""
    if not hasattr(train, "class_counts"):
        return []
    counts = train.class_counts(), val.class_counts()
    lines = []
    for here, there, text in (
        (*counts, "in training only, so that no score tells of them"),
        (*counts[::-1], "in validation only, so that they cannot be learned"),
    ):
        names = [name for name, count in here.items() if count and not there.get(name)]
        if names:
            lines.append(f"  classes that occur {text}: {len(names)} ({few(names, _SHOWN)})")
    return lines
