"""Which format a file or folder has: by what lies in it, never by a guess.

What can be read in one way is used, and said; what can be read in several is an error that lists them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pe_spatial.common.errors import AnnotationError, few, require_choice
from pe_spatial.data.annotations import read_annotations
from pe_spatial.data.formats import coco, folders, label_studio, labelme, masks, voc, yolo
from pe_spatial.data.formats.content import Instances, shown
from pe_spatial.data.formats.place import Place, json_keys
from pe_spatial.data.formats.reading import Reading

FORMATS: dict[str, Callable[[Place], list[Reading]]] = {
    "coco": coco.find,
    "yolo": yolo.find,
    "voc": voc.find,
    "voc0": partial(voc.find, first=0),
    "labelme": labelme.find,
    "label-studio": label_studio.find,
    "object-masks": masks.find_objects,
    "masks": masks.find_classes,
    "panoptic": folders.find_panoptic,
    "depth": folders.find_depth,
    "video": folders.find_videos,
}
_ON_REQUEST = ("voc0",)  # files do not show that they are this


def recognize(path: str | Path, format: str | None = None) -> list[Reading]:  # noqa: A002 - as users call it
    """All that a file or folder can be read as.

    Args:
        path: Of the file or folder.
        format: One of `FORMATS`: look for this one only.

    Raises:
        FileNotFoundError: It does not exist.
        OptionError: No such format.
    """
    if format is not None:
        require_choice("format", format, FORMATS)
    place = Place(path)
    names = [name for name in FORMATS if name not in _ON_REQUEST] if format is None else [format]
    return [reading for name in names for reading in FORMATS[name](place)]


def choose(path: str | Path, format: str | None = None) -> Reading:  # noqa: A002
    """The only reading of a file or folder.

    Raises:
        AnnotationError: There is none (says what lies there), or there are several (lists them).
        FileNotFoundError, OptionError: As `recognize`.
    """
    readings = recognize(path, format)
    if len(readings) == 1:
        return readings[0]
    if not readings:
        _explain(Path(path).expanduser())
        wanted = "dataset of a known format" if format is None else f"dataset in the format {format}"
        raise AnnotationError(
            f"{path} contains no {wanted}: {Place(path).suffix_counts()}; supported formats: {_known()}"
        )
    raise AnnotationError(f"{path} can be read in {len(readings)} ways: {_listing(readings)}")


def is_plain_coco(path: Path) -> bool:
    """Whether a path is read as a COCO file unless something else is asked for: also one that is missing or damaged."""
    if not path.is_file():
        return not path.is_dir()
    if coco.has_instances(json_keys(path)):
        return True
    place = Place(path)
    return path.suffix.lower() == ".json" and not (labelme.find(place) or label_studio.find(place))


def _explain(path: Path) -> None:
    """Say what a file is, if it is one that is damaged or of another kind.

    Raises:
        AnnotationError: It is a JSON file.
        UnreadableFile: It is an XML file that cannot be read.
    """
    suffix = path.suffix.lower()
    if path.is_file() and suffix == ".json":
        content = read_annotations(path)
        entry = content[0] if isinstance(content, list) and content else content
        keys = few(entry, 8) if isinstance(entry, dict) else shown(entry)
        what = "a list of entries with" if isinstance(content, list) else "a file with"
        raise AnnotationError(
            f"{path}: {what} {keys}, which does not fit any known annotation format; supported formats: {_known()}"
        )
    if path.is_file() and suffix == ".xml":
        tag = voc.parse_xml(path).tag
        raise AnnotationError(f"{path}: <{tag}> is not Pascal VOC's <annotation>; export as Pascal VOC or COCO")


def _known() -> str:
    return ", ".join(FORMATS)


def _listing(readings: Sequence[Reading]) -> str:
    ways = "; ".join(f"{reading.about} (--format {reading.format}, {reading.path})" for reading in readings)
    formats = {reading.format for reading in readings}
    advice = "choose with --format" if len(formats) == len(readings) else "give one of the files instead of the folder"
    return f"{ways}; {advice}"


def read_instances(
    path: str | Path,
    split: str | None = None,
    format: str | None = None,  # noqa: A002
) -> Instances:
    """Boxes and masks of any detection-like format, in COCO's terms.

    Args:
        path: A file or folder.
        split: Which part; may be left out where there is only one.
        format: One of `FORMATS`, where the files can be read in several ways.

    Raises:
        AnnotationError, UnreadableFile: A fault in the files; names file, entry, rule and remedy.
        OptionError: No such split or format, or one without boxes.
        FileNotFoundError: The path does not exist.
    """
    return choose(path, format).instances(split)
