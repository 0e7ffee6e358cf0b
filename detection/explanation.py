"""What the numbers of COCO and LVIS mean, and what they come from: classes, confusions, best and worst images."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pe_spatial.data import decode_mask
from pe_spatial.detection.matching import IOU, Judged, best_threshold, confusion
from pe_spatial.training.explanation import ClassTable, Confusion, Explanation, Measure, Ranking, percent, ranking
from pe_spatial.visualization.judged import LONGEST_PANEL, JudgedInstances, draw_judged
from pe_spatial.visualization.layout import reducing_step

_NOUNS = {"bbox": "box", "segm": "mask"}
_PLURALS = {"bbox": "boxes", "segm": "masks"}
_NO_SUCH = "none of this size"
_SIZES = {
    "s": ("small", "under 32² = 1024 pixels of the original picture"),
    "m": ("medium", "of 32² to 96² pixels of the original picture"),
    "l": ("large", "over 96² = 9216 pixels of the original picture"),
}
_FREQUENCIES = {
    "r": ("rare", "in 1 to 10 training pictures"),
    "c": ("common", "in 11 to 100"),
    "f": ("frequent", "in more"),
}
IMAGE_F1 = percent("F1", "twice the right detections over twice these, the false ones and the missed objects together")


def _measures(
    ap: str, separator: str, recalls: Mapping[str, tuple[str, str]], size_of_recall: str
) -> dict[str, Measure]:
    """Those of boxes and masks, with the spelling of COCO or LVIS."""
    found: dict[str, Measure] = {}
    for kind, noun in _NOUNS.items():
        name, overlap = f"{noun} AP", f"IoU of {_PLURALS[kind]}"
        meaning = f"average precision, mean over the classes and over the thresholds 0.50, 0.55 … 0.95 of the {overlap}"
        found[f"{kind}_{ap}"] = percent(name, meaning)
        for level in (50, 75):
            how = "roughly" if level == 50 else "well"
            text = f"the same at {overlap} 0.{level} alone: found and {how} placed"
            found[f"{kind}_{ap}{separator}{level}"] = percent(f"{name}{level}", text)
        for letter, (word, size) in _SIZES.items():
            key = f"{kind}_{ap}{separator}{letter}"
            found[key] = percent(f"{name} {word}", f"{name} of {word} objects, {size}", undefined=_NO_SUCH)
            key = f"{kind}_{size_of_recall.format(letter)}"
            text = f"recall of {word} objects, mean over the same thresholds"
            found[key] = percent(f"{noun} recall {word}", text, undefined=_NO_SUCH)
        for key, (most, which) in recalls.items():
            text = f"share of the objects that are found by {which} of a picture, mean over the same thresholds"
            found[f"{kind}_{key}"] = percent(f"{noun} recall{most}", text)
    return found


_COCO_RECALLS = {
    "AR_1": (" at 1", "the best detection"),
    "AR_10": (" at 10", "the 10 best detections"),
    "AR_max": ("", "all detections that count"),
}
COCO_MEASURES = {
    **_measures("mAP", "_", _COCO_RECALLS, "AR_{}"),
    **{
        f"{kind}_AP": percent(f"{noun} AP", f"average precision of {_PLURALS[kind]} of the class")
        for kind, noun in _NOUNS.items()
    },
}
LVIS_MEASURES = {
    **_measures("AP", "", {"AR@300": ("", "the 300 best detections")}, "AR{}@300"),
    **{
        f"{kind}_AP{letter}": percent(
            f"{noun} AP {word}", f"{noun} AP of the {word} classes, those {rule}", undefined="no such class"
        )
        for kind, noun in _NOUNS.items()
        for letter, (word, rule) in _FREQUENCIES.items()
    },
}


def judge(
    results: Mapping[Any, Mapping[str, Any]], truth: Mapping[str, Any], category_ids: Sequence[int]
) -> list[Judged]:
    """Match the detections of every image with its objects.

    Args:
        results: Those of `CocoMetric.process`, by image id.
        truth: A dataset in COCO's form.
        category_ids: Of the labels 0…K-1.
    """
    label_of = {number: label for label, number in enumerate(category_ids)}
    objects = defaultdict(list)
    for item in truth["annotations"]:
        if item["image_id"] in results and item["category_id"] in label_of:
            objects[item["image_id"]].append(item)
    extras = {image["id"]: image for image in truth["images"]}
    judged = []
    for number, result in sorted(results.items()):
        whole = [item for item in objects[number] if not item["iscrowd"]]
        crowds = [item for item in objects[number] if item["iscrowd"]]
        judged.append(
            Judged(
                *_columns(whole, label_of),
                np.asarray(result["bboxes"], np.float64).reshape(-1, 4),
                np.asarray(result["labels"], np.int64),
                np.asarray(result["scores"], np.float64),
                *_columns(crowds, label_of),
                unjudged=_unjudged(extras.get(number, {}), whole, label_of),
                content={"result": result, "objects": whole},
            )
        )
    return judged


def _columns(items: Sequence[Mapping[str, Any]], label_of: Mapping[int, int]) -> tuple[Any, Any]:
    boxes = np.array([item["bbox"] for item in items], np.float64).reshape(-1, 4)
    return boxes, np.array([label_of[item["category_id"]] for item in items], np.int64)


def _unjudged(image: Mapping[str, Any], objects: Sequence[Mapping[str, Any]], label_of: Mapping[int, int]) -> set[int]:
    """LVIS says of an image which classes it has completely and which it certainly lacks; COCO annotates all."""
    if "neg_category_ids" not in image:
        return set()
    present = {item["category_id"] for item in objects}
    known = (present | set(image["neg_category_ids"])) - set(image.get("not_exhaustive_category_ids", ()))
    return {label for number, label in label_of.items() if number not in known}


def explain(
    judged: Sequence[Judged],
    classes: Sequence[str],
    values: Mapping[str, Sequence[float]],
    measures: Mapping[str, Measure],
) -> Explanation:
    """What lies behind the average precision.

    Args:
        judged: All images.
        classes: Names by label.
        values: Numbers of the classes by measure.
        measures: What they mean.
    """
    counts = np.bincount(np.concatenate([image.truth_labels for image in judged]), minlength=len(classes)).tolist()
    threshold = best_threshold(judged)
    rule = (
        f"detections that score {threshold:g} or more (the threshold of the greatest F1 over all pictures) against "
        f"objects, one to one at an IoU of boxes of {IOU:g} or more, of the same class first; background is not an "
        f"object"
    )
    names = [*classes, "background"]
    return Explanation(
        classes=ClassTable(classes, counts, "objects", values, measures),
        confusion=Confusion(confusion(judged, len(classes), threshold), names, names, "objects", rule, has_none=True),
        ranking=_rank(judged, classes, threshold),
    )


def _rank(judged: Sequence[Judged], classes: Sequence[str], threshold: float) -> Ranking | None:
    """By F1; of equal ones that with more right detections is better, and that with more errors worse."""
    entries = []
    for image in judged:
        path, score = image.content["result"].get("img_path"), image.f1(threshold)
        right, false, missed = image.counts(threshold)
        if path is not None and score == score:
            order = (-score, -right, false + missed, str(path))
            entries.append({"path": path, "score": score, "image": image, "order": order})
    entries.sort(key=lambda entry: entry["order"])
    return ranking(
        IMAGE_F1, entries, len(entries), lambda entry, image: _draw(entry["image"], image, classes, threshold)
    )


def _draw(judged: Judged, image: Tensor, classes: Sequence[str], threshold: float) -> Tensor:
    """The objects beside the detections."""
    size = (image.shape[-2], image.shape[-1])
    step = reducing_step(size, LONGEST_PANEL)
    kept = np.flatnonzero(judged.scores >= threshold)
    kept = kept[np.argsort(judged.scores[kept], kind="stable")]  # the best on top
    found_objects = set(judged.object_of[kept].tolist())
    mistaken = {row: f" (is {classes[judged.truth_labels[number]]})" for row, number in judged.confused(threshold)}
    objects, result = judged.content["objects"], judged.content["result"]
    masks = [item.get("segmentation") for item in objects]
    truth = JudgedInstances(
        boxes=_corners(judged.truth) / step,
        masks=_masks(masks, size, step) if any(mask is not None for mask in masks) else None,
        captions=[classes[label] for label in judged.truth_labels],
        verdicts=["right" if number in found_objects else "missed" for number in range(len(objects))],
    )
    prediction = JudgedInstances(
        boxes=_corners(judged.found[kept]) / step,
        masks=_masks([result["masks"][row] for row in kept], size, step) if "masks" in result else None,
        captions=[
            f"{classes[judged.labels[row]]} {judged.scores[row]:.2f}{mistaken.get(int(row), '')}" for row in kept
        ],
        verdicts=[
            "right" if judged.object_of[row] >= 0 else "false" if judged.is_judged[row] else "unjudged" for row in kept
        ],
    )
    return draw_judged(image[:, ::step, ::step], truth, prediction, f"prediction, score {threshold:g} or more")


def _corners(boxes: Any) -> Tensor:
    """Boxes xywh as xyxy, [N, 4]."""
    xywh = torch.as_tensor(np.asarray(boxes, np.float32)).reshape(-1, 4)
    return torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)


def _masks(rows: Sequence[Any], size: tuple[int, int], step: int) -> Tensor:
    """Bool [N, H, W] of every `step`-th row and column: the masks of a large image would fill the memory.

    An object without a mask has no pixel.
    """
    masks = torch.zeros(len(rows), *(-(-side // step) for side in size), dtype=torch.bool)
    for mask, row in zip(masks, rows, strict=True):
        if row is not None:
            mask.copy_(torch.from_numpy(decode_mask(row, size))[::step, ::step])
    return masks
