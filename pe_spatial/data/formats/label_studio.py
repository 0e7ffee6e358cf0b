"""Label Studio's JSON export: tasks with results in percent of the picture's sides.

Its COCO and YOLO exports are read as COCO and YOLO. Rectangles and polygons are taken. Turned rectangles, ellipses,
brushes and keypoints are refused: export brushes as COCO or PNG. Choices and texts mark no object and are left out. A
picture is the one whose name its address ends in, also without the eight digits that an upload puts before it, in
`images` or beside the file. A task with the work of several people has to have one annotation marked as ground truth.
Classes are all labels that occur, sorted.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from pe_spatial.common.console import track
from pe_spatial.common.errors import AnnotationError
from pe_spatial.data.annotations import read_annotations
from pe_spatial.data.formats.content import Box, Instances, InstancesBuilder, Polygons, shown
from pe_spatial.data.formats.exact import from_json
from pe_spatial.data.formats.place import Place, portable, require_size
from pe_spatial.data.formats.reading import Reading

_TAKEN = {"rectanglelabels": "rectangle", "polygonlabels": "polygon"}
_REFUSED = ("brushlabels", "ellipselabels", "keypointlabels", "rectangle", "polygon", "brush", "ellipse", "keypoint")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")

Entry = Mapping[str, Any]


def find(place: Place) -> list[Reading]:
    """The readings of a file or folder."""
    found = []
    for name in place.meant(".json"):
        keys = place.json_keys(name)
        if "[" in keys and "data" in keys and "result" in keys:
            load = partial(_load, place, name)
            found.append(Reading("label-studio", place.root / name, "Label Studio's JSON", ("all",), load))
    return found


def _load(place: Place, name: str, split: str) -> Instances:
    path = place.root / name
    tasks = read_annotations(path)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise AnnotationError(f"{path}: no list of tasks; export JSON from Label Studio again")
    results = [_results(task, f"{path}: task {_name_of(task, n)}") for n, task in enumerate(tasks, start=1)]
    labels = {label for entries, _ in results for entry, where in entries for label in _labels(entry, where)}
    builder = InstancesBuilder(str(path), place.root, sorted(labels))
    folder = str(PurePosixPath(name).parent)
    for number, (task, (entries, cancelled)) in enumerate(zip(track(tasks, "reading"), results, strict=True), start=1):
        where = f"{path}: task {_name_of(task, number)}"
        if cancelled:
            builder.note("annotations that were skipped or replaced, left out", where)
        if entries is None:
            continue
        picture = _picture(place, task, folder, where)
        if picture is None:
            builder.note("tasks without picture here, left out", where)
            continue
        recorded = next((_recorded(entry, at) for entry, at in entries if "original_width" in entry), (0, 0))
        size = require_size(recorded, place.root / picture, where)
        image = builder.add_image(picture, size)
        for entry, at in entries:
            if not _labels(entry, at):
                builder.note(f"results of type {entry.get('type')}, left out", at)
                continue
            builder.add_object(image, _labels(entry, at)[0], _shape(entry, size, at), at)
    return builder.build("images")


def _name_of(task: Entry, number: int) -> object:
    return task.get("id", number)


def _results(task: Entry, where: str) -> tuple[list[tuple[Entry, str]], int]:
    """The results of a task, with what messages call them, and how many of its annotations do not count."""
    annotations = task.get("annotations", task.get("completions"))
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise AnnotationError(f"{where}: annotations is not a list; export JSON (not JSON-MIN) from Label Studio")
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    if len(kept) > 1:
        marked = [annotation for annotation in kept if annotation.get("ground_truth")]
        if len(marked) != 1:
            raise AnnotationError(
                f"{where}: {len(kept)} annotations, {len(marked)} of them marked as ground truth; mark one, or delete "
                "the others"
            )
        kept = marked
    results = kept[0].get("result") if kept else []
    if not isinstance(results, list) or not all(isinstance(entry, dict) for entry in results):
        raise AnnotationError(f"{where}: result is not a list of results; export JSON from Label Studio again")
    named = [(entry, f"{where}: result {number}") for number, entry in enumerate(results, start=1)]
    return named, len(annotations) - len(kept)


def _labels(entry: Entry, where: str) -> list[str]:
    """The class of a result, in a list; empty if it marks no object."""
    kind, value = entry.get("type"), entry.get("value")
    if kind in _REFUSED:
        raise AnnotationError(
            f"{where}: type {kind} is neither rectanglelabels nor polygonlabels; draw labeled rectangles or polygons, "
            "or export brushes as COCO"
        )
    if kind not in _TAKEN:
        return []
    labels = value.get(kind) if isinstance(value, dict) else None
    if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
        raise AnnotationError(f"{where}: {kind} is {shown(labels)}; an object must have one label")
    return labels


def _picture(place: Place, task: Entry, folder: str, where: str) -> str | None:
    data = task.get("data")
    values = [text for text in data.values() if isinstance(text, str)] if isinstance(data, dict) else []
    folders = [folder, str(PurePosixPath(folder) / "images"), "images"]
    for value in [*values, str(task.get("file_upload") or "")]:
        name = PurePosixPath(
            portable(unquote(value)).partition("?d=")[2] or portable(unquote(value)).partition("?")[0]
        ).name
        for candidate in (name, _UPLOADED.sub("", name)):
            if candidate and (found := place.picture(candidate, folders, where)):
                return found
    return None


def _recorded(entry: Entry, where: str) -> tuple[int, int]:
    height, width = entry.get("original_height"), entry.get("original_width")
    if not isinstance(height, int) or not isinstance(width, int):
        raise AnnotationError(
            f"{where}: original_height and original_width are {shown(height)} and {shown(width)}; they must be "
            f"numbers of pixels"
        )
    return height, width


def _shape(entry: Entry, size: tuple[int, int], where: str) -> Box | Polygons:
    """The object of a result, in pixels."""
    value = entry["value"]
    turned = value.get("rotation") or entry.get("image_rotation")
    if turned:
        raise AnnotationError(
            f"{where}: the box is rotated by {shown(turned)} degrees, and boxes must be upright; draw a polygon, or "
            f"set the rotation to 0"
        )
    H, W = (Decimal(side) for side in size)
    try:
        if entry["type"] == "polygonlabels":
            corners = [(from_json(x) * W / 100, from_json(y) * H / 100) for x, y in value["points"]]
            if len(corners) < 3:
                raise AnnotationError(f"{where}: a polygon of {len(corners)} points; it needs three")
            return Polygons([corners])
        x, y, w, h = (from_json(value[key]) for key in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError):
        raise AnnotationError(f"{where}: its value has no finite numbers (x, y, width, height, or points)") from None
    if w <= 0 or h <= 0 or min(x, y) < -1 or max(x + w, y + h) > 101:
        raise AnnotationError(f"{where}: x {x}, y {y}, width {w}, height {h} are not percents of a box in the picture")
    return Box(x * W / 100, y * H / 100, w * W / 100, h * H / 100)
