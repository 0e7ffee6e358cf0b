"""Pascal VOC: an XML file per picture, with the box of every object.

Pixels are counted from 1 and a box includes its last one, as VOC's own tools do: `xmin 1` and `xmax 10` are the first
ten columns, in COCO's terms x 0 and width 10. Some tools (CVAT, Roboflow) write the edges counted from 0, `xmin 0` and
`xmax 10`. The files do not say which rule they follow: the format is `voc` for the first and `voc0` for the second,
and a box that begins before pixel 1 is an error under the first.

Pictures lie in `JPEGImages` and XML files in `Annotations`, or both side by side; `ImageSets/Main/SPLIT.txt` lists the
names of a split, or folders named like splits are splits. Classes stand in `labels.txt`, or `labelmap.txt` (CVAT,
Datumaro); without them they are all names that occur, sorted. `difficult`, `truncated` and `occluded` are kept, other
marks are not.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from pe_spatial.common.console import track
from pe_spatial.common.errors import AnnotationError, UnreadableFile
from pe_spatial.common.reading import read_whole
from pe_spatial.data.annotations.entries import MARKS
from pe_spatial.data.formats.content import Box, Instances, InstancesBuilder
from pe_spatial.data.formats.exact import parse_number
from pe_spatial.data.formats.place import Place, read_names, require_size, split_names
from pe_spatial.data.formats.reading import Reading

LISTS = "ImageSets/Main"
_CLASS_LIST = re.compile(r".+\s(-1|0|1)$")  # a line of cat_train.txt: which pictures show a class
_ROOT_TAG = re.compile(r"<annotation[\s>]")
_LONGEST_SIDE = 10**9


def find(place: Place, first: int = 1) -> list[Reading]:
    """The readings of a file or folder.

    Args:
        place: The file or folder.
        first: The number that files give the first pixel.
    """
    files = [name for name in place.meant(".xml") if _is_voc(place.root / name)]
    if not files:
        return []
    splits = _splits(place, files)
    rule = "pixels counted from 1; --format voc0 where they count from 0" if first else "edges counted from 0"
    load = partial(_load, place, splits, files, first)
    return [Reading("voc" if first else "voc0", place.path, f"Pascal VOC, {rule}", tuple(splits), load)]


def _is_voc(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            head = file.read(4096)
    except OSError:
        return False
    return _ROOT_TAG.search(head.replace("\0", "")) is not None or path.parent.name == "Annotations"


def _splits(place: Place, files: Sequence[str]) -> dict[str, list[str]]:
    """The XML files of every split; by lists where there are any."""
    by_stem = {_stem_below(name): name for name in files}
    splits = {}
    for name in [] if place.is_file else place.with_suffix(".txt"):
        path = PurePosixPath(name)
        if str(path.parent) == LISTS:
            lines = read_names(place.root / name)
            if lines and all(_CLASS_LIST.match(line) for line in lines):
                continue
            splits[path.stem] = [_listed(place.root / name, line, by_stem) for line in lines]
    return splits or split_names(files)


def _stem_below(name: str) -> str:
    return str(PurePosixPath(name.removeprefix("Annotations/")).with_suffix(""))


def _listed(path: Path, line: str, by_stem: dict[str, str]) -> str:
    if line not in by_stem:
        raise AnnotationError(f"{path}: no Annotations/{line}.xml; restore it or remove the line from the list")
    return by_stem[line]


# --- one dataset -----------------------------------------------------------------------------------------------------
def _load(place: Place, splits: dict[str, list[str]], files: Sequence[str], first: int, split: str) -> Instances:
    builder = InstancesBuilder(f"{place.path} ({split})", place.root, _classes(place, files))
    used = set()
    for name in track(splits[split], f"reading {split}", unit="images"):
        where = str(place.root / name)
        root = parse_xml(place.root / name)
        if root.tag != "annotation":
            raise AnnotationError(
                f"{where}: <{root.tag}> is not Pascal VOC's <annotation>; export as Pascal VOC or COCO"
            )
        picture = _picture(place, name, root, where)
        if picture is None:
            builder.note("XML files without picture, left out", name)
            continue
        if picture in used:
            raise AnnotationError(
                f"{where}: its picture {picture} is also the picture of another file of {split}; correct one of them"
            )
        used.add(picture)
        size = require_size(_size(root, where), place.root / picture, where)
        image = builder.add_image(picture, size)
        for number, item in enumerate(root.findall("object"), start=1):
            _add(builder, image, item, first, f"{where}: object {number}")
    if len(splits) == 1:
        for picture in place.pictures:
            if picture not in used and not picture.startswith("Segmentation"):
                builder.note("pictures without XML file, left out", picture)
    return builder.build("JPEGImages", f"{split}/images", split, "images")


def _classes(place: Place, files: Sequence[str]) -> list[str]:
    for name in ("labels.txt", "labelmap.txt"):
        if name in place.files:
            lines = [line for line in read_names(place.root / name) if not line.startswith("#")]
            names = [line.partition(":")[0] for line in lines] if name == "labelmap.txt" else lines
            return names if name == "labels.txt" else [entry for entry in names if entry != "background"]
    roots = (parse_xml(place.root / name) for name in files)
    return sorted({(item.findtext("name") or "").strip() for root in roots for item in root.findall("object")} - {""})


def _picture(place: Place, name: str, root: Element, where: str) -> str | None:
    """The picture of an XML file: the one it names, or the one that is called like itself."""
    folder = PurePosixPath(name).parent
    folders = [str(folder), re.sub(r"(^|/)Annotations(/|$)", r"\1JPEGImages\2", str(folder), count=1)]
    folders += [str(parent / end) for parent in folder.parents for end in ("images", "JPEGImages")]
    stem = PurePosixPath(name).stem
    found_alike = (place.picture_of_stem(str(PurePosixPath(at) / stem), where) for at in folders)
    alike = next(filter(None, found_alike), None)
    named = (root.findtext("filename") or "").strip()
    found = place.picture(named, folders, where) if named else None
    if found and alike and found != alike:
        raise AnnotationError(
            f"{where}: <filename> is {found}, but the picture with its name is {alike}; correct <filename>"
        )
    return found or alike


def _size(root: Element, where: str) -> tuple[int, int]:
    sides = [root.findtext(f"size/{key}") or "0" for key in ("height", "width")]
    try:
        height, width = (int(parse_number(side.strip())) for side in sides)
    except ValueError:
        raise AnnotationError(
            f"{where}: <size> is {sides[0]!r} × {sides[1]!r}; height and width must be numbers"
        ) from None
    return height, width


def _add(builder: InstancesBuilder, image: int, item: Element, first: int, where: str) -> None:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise AnnotationError(f"{where}: no <name>; write the class of the object")
    if item.find("robndbox") is not None:
        raise AnnotationError(f"{where} ({name}): a rotated box <robndbox>; export upright boxes <bndbox>")
    if item.find("polygon") is not None:
        builder.note("polygons left out, boxes kept", where)
    if item.find("part") is not None:
        builder.note("parts of objects left out", where)
    edges = [_edge(item, key, f"{where} ({name})") for key in ("xmin", "ymin", "xmax", "ymax")]
    if first and min(edges[:2]) < 1:
        raise AnnotationError(
            f"{where} ({name}): the box starts at {min(edges[:2])}, but Pascal VOC counts pixels from 1; if the "
            "tool counted from 0 (CVAT, Roboflow), use --format voc0"
        )
    x, y = edges[0] - first, edges[1] - first
    if edges[2] <= x or edges[3] <= y:
        raise AnnotationError(f"{where} ({name}): the box ends ({edges[2]}, {edges[3]}) before it starts; correct it")
    marks = {mark: int((item.findtext(mark) or "0").strip() in ("1", "true", "True")) for mark in MARKS}
    builder.add_object(image, name, Box(x, y, edges[2] - x, edges[3] - y), where, marks)


def _edge(item: Element, key: str, where: str) -> Decimal:
    text = (item.findtext(f"bndbox/{key}") or "").strip()
    try:
        value = parse_number(text)
    except ValueError:
        value = Decimal(_LONGEST_SIDE)
    if abs(value) >= _LONGEST_SIDE:
        raise AnnotationError(f"{where}: <{key}> of <bndbox> is {text!r}; it must be a number of pixels")
    return value


# --- XML --------------------------------------------------------------------------------------------------------------
def parse_xml(path: Path) -> Element:
    """The root of an XML file. Document types are refused: with them, a small file can grow to any size.

    Raises:
        UnreadableFile: The file cannot be read, or is no XML.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise UnreadableFile(
            f"{path}:{parser.CurrentLineNumber}: a document type (<!DOCTYPE>), which annotations do not need and which "
            "can make a small file grow without limit; remove it"
        )

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(read_whole(path), True)
    except OSError as error:
        if isinstance(error, UnreadableFile):
            raise
        raise UnreadableFile(f"{path} cannot be read: {error.strerror}") from error
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise UnreadableFile(f"{path}: not XML: {error}; restore the file, or declare its encoding") from None
    return builder.close()
