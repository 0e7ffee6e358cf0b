"""Writing boxes and masks in another format, and what it cannot hold.

|                                     | coco | yolo                           | voc                  |
|-------------------------------------|------|--------------------------------|----------------------|
| box of an object without mask       | yes  | yes                            | yes                  |
| polygon                             | yes  | yes, the box is that around it | lost, the box stays  |
| several polygons of one object      | yes  | lost: joined to one            | lost, the box stays  |
| RLE                                 | yes  | lost, the box stays            | lost, the box stays  |
| parts of objects out of the picture | yes  | lost: clipped                  | lost: clipped        |
| crowds                              | yes  | lost: left out                 | lost: left out       |
| difficult, truncated, occluded      | yes  | lost                           | yes                  |
| area of an annotation               | yes  | that of the polygon or box     | that of the box      |
| ids of images, objects and classes  | yes  | counted from 1                 | counted from 1       |
| order of images and classes         | yes  | classes, images by name        | yes                  |

What is lost is counted, and refused unless the user allows it. All else comes back equal to the last bit of every
number: see `pe_spatial.data.formats.exact`. Areas and ids are no loss: nothing but them changes.

    coco    OUT/annotations/instances_SPLIT.json                        OUT/images/SPLIT/NAME
    yolo    OUT/data.yaml, OUT/labels/SPLIT/NAME.txt                    OUT/images/SPLIT/NAME
    voc     OUT/Annotations/NAME.xml, labels.txt, ImageSets/Main/SPLIT.txt   OUT/JPEGImages/NAME
"""

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Literal
from xml.sax.saxutils import escape

from pe_spatial.common.console import track
from pe_spatial.common.errors import AnnotationError, OptionError, few, require_choice
from pe_spatial.common.files import atomic_folder, write_json_stream, write_new, write_text
from pe_spatial.common.safe_yaml import write as yaml_text
from pe_spatial.data.annotations.entries import MARKS
from pe_spatial.data.formats.content import Instances, Record, corners_of
from pe_spatial.data.formats.exact import decimal, divide, to_text
from pe_spatial.data.formats.joining import join_polygons
from pe_spatial.data.formats.place import require_size
from pe_spatial.data.formats.yolo import label_path

TARGETS = ("coco", "yolo", "voc")
Pictures = Literal["link", "copy", "keep"]
_BOX_TOLERANCE = 1e-6  # pixels between a box and that around its polygon which are no loss


def write_dataset(
    splits: Mapping[str, Instances], folder: Path, to: str, pictures: Pictures = "link", allow_loss: bool = False
) -> list[str]:
    """Write a dataset.

    Args:
        splits: Its parts by name.
        folder: Is made when all of it is written; may exist if it is empty.
        to: One of `TARGETS`.
        pictures: "link" to the present ones, "copy" them, or "keep" them where they are.
        allow_loss: Write although something is lost.

    Returns:
        What was lost or changed, a line each.

    Raises:
        AnnotationError: Something would be lost, names meet, or a picture is missing; nothing is written then.
        OptionError: The folder is not empty, or an option is unknown.
        OSError: The folder cannot be written.
    """
    require_choice("to", to, TARGETS)
    require_choice("pictures", pictures, ("link", "copy", "keep"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder} exists and is not empty, and nothing is overwritten; give a new folder")
    lost = [f"{split}: {line}" for split, content in splits.items() for line in losses(content, to)]
    if lost and not allow_loss:
        raise AnnotationError(
            f"{to} cannot store everything; {'; '.join(lost)}; accept the loss with --allow-loss, or convert to coco"
        )
    places = {split: _places(split, content, to) for split, content in splits.items()}
    _require_distinct(places, to)
    if to != "coco":
        _require_same_classes(splits)
    if to == "voc":
        _require_plain(splits)
    if pictures != "keep":
        _require_pictures(splits, sizes=to != "coco")  # fractions are of the true size
    with atomic_folder(folder) as unfinished:
        if pictures != "keep":
            _transfer(splits, places, unfinished, pictures)
        {"coco": _write_coco, "yolo": _write_yolo, "voc": _write_voc}[to](splits, places, unfinished)
    return lost


# --- what is lost -----------------------------------------------------------------------------------------------------
def losses(content: Instances, to: str) -> list[str]:
    """What a format cannot hold of some content, counted, a line each."""
    if to == "coco":
        return []
    counts: dict[str, list[object]] = defaultdict(list)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content.images}
    for annotation in content.annotations:
        for what in _lost(annotation, sizes[annotation["image_id"]], to):
            counts[what].append(annotation["id"])
    return [f"{what}: {len(ids)} (annotation {few(ids)})" for what, ids in counts.items()]


def _lost(annotation: Record, size: tuple[int, int], to: str) -> Iterable[str]:
    if annotation["iscrowd"]:
        yield "crowds left out"
        return
    mask = annotation.get("segmentation")
    box = annotation["bbox"]
    if _clipped(box, size) is None:
        yield "objects whose box has no area in the picture left out"
        return
    if to == "voc":
        if mask is not None:
            yield "masks left out, boxes kept"
        mask = None
    elif any(mark in annotation for mark in MARKS):
        yield "marks (difficult, truncated, occluded) left out"
    if isinstance(mask, dict):
        yield "masks of pixels (RLE) left out, boxes kept"
    if isinstance(mask, list):
        if len(mask) > 1:
            yield "objects of several polygons joined to one"
        around = _around(mask)
        if max(abs(a - b) for a, b in zip(around, box, strict=True)) > _BOX_TOLERANCE:
            yield "boxes that are not those around their polygons replaced by these"
        box = around
    if _clipped(box, size) != tuple(map(decimal, box)):
        yield "objects that leave the picture clipped"


def _around(polygons: Sequence[Sequence[float]]) -> list[float]:
    """The box [x, y, width, height] around polygons."""
    xs = [value for part in polygons for value in part[::2]]
    ys = [value for part in polygons for value in part[1::2]]
    left, top = decimal(min(xs)), decimal(min(ys))
    return [float(value) for value in (left, top, decimal(max(xs)) - left, decimal(max(ys)) - top)]


def _clipped(box: Sequence[float], size: tuple[int, int]) -> tuple[Decimal, Decimal, Decimal, Decimal] | None:
    """The part [x, y, width, height] of a box in the picture; None where it has no area."""
    x, y, width, height = map(decimal, box)
    right, bottom = min(x + width, decimal(size[1])), min(y + height, decimal(size[0]))
    left, top = max(x, decimal(0)), max(y, decimal(0))
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


# --- where things lie -------------------------------------------------------------------------------------------------
def _places(split: str, content: Instances, to: str) -> dict[int, str]:
    """Where the picture of every image goes, relative to the folder."""
    root = "JPEGImages" if to == "voc" else f"images/{split}"
    return {image["id"]: f"{root}/{image['file_name']}" for image in content.images}


def _require_distinct(places: Mapping[str, Mapping[int, str]], to: str) -> None:
    """Refuse pictures that would lie at one place, or share a label file."""
    names = [name for of_split in places.values() for name in of_split.values()]
    keys = names if to == "coco" else [str(PurePosixPath(name).with_suffix("")) for name in names]
    twice = next((key for key, count in Counter(keys).items() if count > 1), None)
    if twice is not None:
        raise AnnotationError(
            f"several pictures would get the name {twice}; rename one of them, or convert the splits one by one "
            f"(--split)"
        )


def _require_same_classes(splits: Mapping[str, Instances]) -> None:
    """Refuse splits whose class lists differ, for these formats have one for all."""
    lists = {split: [category["name"] for category in content.categories] for split, content in splits.items()}
    first, *rest = lists
    for split in rest:
        if lists[split] != lists[first]:
            raise AnnotationError(
                f"the classes of {split} ({few(lists[split])}) are not those of {first} ({few(lists[first])}); convert "
                "the splits one by one (--split)"
            )


def _require_plain(splits: Mapping[str, Instances]) -> None:
    """Refuse names that lines of text and XML do not give back."""
    for split, content in splits.items():
        for name in (*(c["name"] for c in content.categories), *(i["file_name"] for i in content.images)):
            if name != name.strip() or not name.isprintable():
                raise AnnotationError(
                    f"{split}: the name {name!r} starts or ends with a space, or has characters that XML cannot "
                    f"store; rename it"
                )


def _require_pictures(splits: Mapping[str, Instances], sizes: bool) -> None:
    """Refuse pictures that are missing, or have another size than the annotations say.

    Args:
        splits: The content.
        sizes: Whether to look at the sizes.
    """
    pairs = [(content, image) for content in splits.values() for image in content.images]
    paths = [content.image_root / image["file_name"] for content, image in pairs]
    absent = [str(path) for path in paths if not path.is_file()]
    if absent:
        raise AnnotationError(
            f"{len(absent)} of {len(paths)} pictures are missing ({few(absent)}); restore them, or write only "
            "the annotations (--pictures keep)"
        )
    for (content, image), path in zip(track(pairs if sizes else [], "sizes", unit="images"), paths, strict=False):
        require_size((image["height"], image["width"]), path, f"{content.source}: image {image['file_name']}")


def _transfer(
    splits: Mapping[str, Instances], places: Mapping[str, Mapping[int, str]], folder: Path, pictures: Pictures
) -> None:
    """Link or copy the pictures."""
    pairs = [
        (content.image_root / image["file_name"], folder / places[split][image["id"]])
        for split, content in splits.items()
        for image in content.images
    ]
    for source, target in track(pairs, f"{pictures} pictures", unit="images"):
        target.parent.mkdir(parents=True, exist_ok=True)
        if pictures == "link":
            os.symlink(source.resolve(), target)
        else:
            with open(source, "rb") as file:
                write_new(target, lambda copy, file=file: shutil.copyfileobj(file, copy))  # type: ignore[misc]


def _write_small(path: Path, text: str) -> None:
    """Write a file of one picture; the files that describe the dataset are written last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_new(path, lambda file: file.write(text.encode()))


# --- the formats ------------------------------------------------------------------------------------------------------
def _write_coco(splits: Mapping[str, Instances], places: Mapping[str, Mapping[int, str]], folder: Path) -> None:
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, content in splits.items():
        write_json_stream(folder / "annotations" / f"instances_{split}.json", content.as_coco())


def _by_image(content: Instances) -> dict[int, list[Record]]:
    """The objects of every image that can be written."""
    found = defaultdict(list)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content.images}
    for annotation in content.annotations:
        if not annotation["iscrowd"] and _clipped(annotation["bbox"], sizes[annotation["image_id"]]):
            found[annotation["image_id"]].append(annotation)
    return found


def _write_yolo(splits: Mapping[str, Instances], places: Mapping[str, Mapping[int, str]], folder: Path) -> None:
    names: list[str] = []
    for split, content in splits.items():
        names = [category["name"] for category in content.categories]
        numbers = {category["id"]: number for number, category in enumerate(content.categories)}
        annotations = _by_image(content)
        for image in track(content.images, f"writing {split}", unit="images"):
            size = image["height"], image["width"]
            rows = [f"{numbers[a['category_id']]} {_row(a, size)}\n" for a in annotations[image["id"]]]
            path = folder / label_path(places[split][image["id"]])
            _write_small(path, "".join(rows))
    entries = {key: f"images/{split}" for key, split in _yolo_keys(splits).items()}
    (folder / "data.yaml").parent.mkdir(parents=True, exist_ok=True)
    write_text(folder / "data.yaml", yaml_text({"path": ".", **entries, "names": names}))


def _yolo_keys(splits: Iterable[str]) -> dict[str, str]:
    """Splits by the names that YOLO has for them: `train2017` is `train`, where no other is."""
    found: dict[str, str] = {}
    for split in splits:
        key = next((key for key in ("train", "val", "test") if split.lower().startswith(key)), split)
        found[split if key in found else key] = split
    return found


def _row(annotation: Record, size: tuple[int, int]) -> str:
    """What follows the class in a line of a label file."""
    H, W = size
    mask = annotation.get("segmentation")
    if isinstance(mask, list):
        parts = [corners_of(part) for part in mask]
        corners = parts[0] if len(parts) == 1 else join_polygons(parts)
        inside = [(min(max(x, decimal(0)), decimal(W)), min(max(y, decimal(0)), decimal(H))) for x, y in corners]
        return " ".join(f"{to_text(divide(x, W))} {to_text(divide(y, H))}" for x, y in inside)
    x, y, width, height = _box(annotation, size)
    middle = divide(x + width / 2, W), divide(y + height / 2, H)
    return " ".join(map(to_text, (*middle, divide(width, W), divide(height, H))))


def _box(annotation: Record, size: tuple[int, int]) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    box = _clipped(annotation["bbox"], size)
    assert box is not None, "such objects are left out"
    return box


def _write_voc(splits: Mapping[str, Instances], places: Mapping[str, Mapping[int, str]], folder: Path) -> None:
    (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    for split, content in splits.items():
        names = {category["id"]: category["name"] for category in content.categories}
        annotations = _by_image(content)
        listed = []
        for image in track(content.images, f"writing {split}", unit="images"):
            stem = str(PurePosixPath(image["file_name"]).with_suffix(""))
            path = folder / "Annotations" / f"{stem}.xml"
            _write_small(path, _xml(image, annotations[image["id"]], names))
            listed.append(stem + "\n")
        write_text(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(listed))
        write_text(folder / "labels.txt", "".join(f"{name}\n" for name in names.values()))


def _xml(image: Record, annotations: Iterable[Record], names: Mapping[int, str]) -> str:
    lines = ["<annotation>", f"\t<filename>{escape(PurePosixPath(image['file_name']).name)}</filename>"]
    lines.append(f"\t<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>")
    for annotation in annotations:
        x, y, width, height = _box(annotation, (image["height"], image["width"]))
        edges = {"xmin": x + 1, "ymin": y + 1, "xmax": x + width, "ymax": y + height}
        box = "".join(f"<{key}>{to_text(value)}</{key}>" for key, value in edges.items())
        marks = "".join(f"<{mark}>{annotation.get(mark, 0)}</{mark}>" for mark in MARKS)
        name = escape(names[annotation["category_id"]])
        lines.append(f"\t<object><name>{name}</name>{marks}<bndbox>{box}</bndbox></object>")
    return "\n".join([*lines, "</annotation>", ""])
