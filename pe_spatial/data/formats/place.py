"""A folder or file that a user points at: what lies in it, and which picture a name means.

Names inside datasets come from other machines: with backslashes, drive letters, and folders that are not here. They
are looked up below the dataset's root only; a name that leads out of it is refused.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from pe_spatial.common.errors import AnnotationError, UnreadableFile
from pe_spatial.common.pictures import image_size
from pe_spatial.common.reading import open_regular, read_whole
from pe_spatial.common.sources import natural_order
from pe_spatial.common.suffixes import IMAGE_SUFFIXES

SPLITS = ("train", "val", "valid", "validation", "test", "trainval")
_DRIVE = re.compile(r"[A-Za-z]:/")
_DARKNET = re.compile(r"obj_(\w+)_data")
_SNIFFED = 1 << 16  # bytes at either end of a JSON file that tell its kind


class Place:
    """What a user points at.

    Args:
        path: A folder or a file.

    Attributes:
        path: The same.
        root: The folder; of a file, the one that it lies in.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if not self.path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        self.is_file = not self.path.is_dir()
        self.root = self.path.parent if self.is_file else self.path
        self._keys: dict[str, set[str]] = {}

    @cached_property
    def files(self) -> list[str]:
        """The files below the root, relative to it and with slashes, in natural order; hidden ones do not count."""
        found: list[str] = []
        entered: set[tuple[int, int]] = set()
        folders = [""]
        while folders:
            folder = folders.pop()
            state = os.stat(self.root / folder)
            if (state.st_dev, state.st_ino) in entered:  # links in a circle
                continue
            entered.add((state.st_dev, state.st_ino))
            for item in sorted(os.scandir(self.root / folder), key=lambda item: item.name, reverse=True):
                if item.name.startswith(".") or item.name == "__MACOSX":
                    continue
                name = f"{folder}/{item.name}" if folder else item.name
                if item.is_dir():
                    folders.append(name)
                elif item.is_file():  # pipes and devices would never end
                    found.append(name)
        return natural_order(found)

    @cached_property
    def pictures(self) -> list[str]:
        """Those of the files that are pictures by their suffix."""
        return self.with_suffix(*IMAGE_SUFFIXES)

    @cached_property
    def _pictures(self) -> frozenset[str]:
        return frozenset(self.pictures)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for name in self.pictures:
            found[str(PurePosixPath(name).with_suffix(""))].append(name)
        return found

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Files whose suffix, in lower case, is one of these."""
        return [name for name in self.files if os.path.splitext(name)[1].lower() in suffixes]

    def meant(self, *suffixes: str) -> list[str]:
        """Annotation files that are meant: the one that the user points at, or those in the folder."""
        if not self.is_file:
            return self.with_suffix(*suffixes)
        return [self.path.name] if self.path.suffix.lower() in suffixes else []

    def json_keys(self, name: str) -> set[str]:
        """See the function of this name; a file is looked at once."""
        if name not in self._keys:
            self._keys[name] = json_keys(self.root / name)
        return self._keys[name]

    def suffix_counts(self) -> str:
        """What lies here, such as "12 .jpg, 3 .csv"."""
        counts = Counter(os.path.splitext(name)[1].lower() or "without suffix" for name in self.files)
        return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(8)) or "nothing"

    # --- which picture a name means -----------------------------------------------------------------------------------
    def picture(self, name: str, folders: Sequence[str], where: str) -> str | None:
        """The picture that an annotation names, relative to the root.

        Args:
            name: As it stands in the file. Of a path of another machine, the longest end that lies in a folder counts.
            folders: Relative to the root, in which names may be meant; the first match counts.
            where: File and entry, for messages.

        Returns:
            None where there is no such picture.

        Raises:
            AnnotationError: The name leads out of the root.
        """
        for folder in folders:
            for candidate in self._readings_of(name, folder, where):
                if candidate in self._pictures:
                    return candidate
        return None

    def _readings_of(self, name: str, folder: str, where: str) -> list[str]:
        text = portable(name)
        if not is_absolute(text):
            return [below(folder, text, where)]
        parts = [part for part in text.split("/") if part not in ("", ".", "..")]
        return [below(folder, "/".join(parts[start:]), where) for start in range(len(parts))]

    def picture_of_stem(self, stem: str, where: str) -> str | None:
        """The picture of a path without suffix, relative to the root.

        Raises:
            AnnotationError: There are several.
        """
        found = self._by_stem.get(stem, [])
        if len(found) > 1:
            raise AnnotationError(
                f"{where}: {' and '.join(found)} have the same name without the suffix; rename one of them"
            )
        return found[0] if found else None


def portable(name: str) -> str:
    """A path with slashes, whatever system wrote it."""
    return name.strip().replace("\\", "/")


def is_absolute(text: str) -> bool:
    """Whether a path with slashes begins at the root of some machine."""
    return text.startswith("/") or _DRIVE.match(text) is not None


def below(folder: str, name: str, where: str) -> str:
    """A path in a folder of the root, without `.` and `..`.

    Raises:
        AnnotationError: It leads out of the root.
    """
    path = os.path.normpath(os.path.join(folder, name)).replace(os.sep, "/")
    if path == ".." or path.startswith(("../", "/")):
        raise AnnotationError(
            f"{where}: the path {name!r} is outside the dataset; give the folder that contains everything, or correct "
            "the path"
        )
    return path


def split_names(files: Iterable[str]) -> dict[str, list[str]]:
    """Files by split, where the first or second folder of all of them is named like one; else all are `all`."""
    found = defaultdict(list)
    for name in files:
        parts = PurePosixPath(name).parts[:-1][:2]
        split = next(filter(None, map(_split_of, parts)), None)
        found[split or ""].append(name)
    return {"all": [name for names in found.values() for name in names]} if "" in found else dict(found)


def _split_of(folder: str) -> str | None:
    """The split that a folder is named after: `train`, or Darknet's `obj_train_data`."""
    match = _DARKNET.fullmatch(folder)
    return match[1] if match else folder if folder.lower() in SPLITS else None


# --- files ------------------------------------------------------------------------------------------------------------
def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without byte order mark, or in UTF-16 with one.

    Raises:
        UnreadableFile: It is in another encoding, or cannot be read.
    """
    try:
        content = read_whole(path)
    except UnreadableFile:
        raise
    except OSError as error:
        raise UnreadableFile(f"{path} cannot be read: {error.strerror}") from error
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UnreadableFile(
            f"{path}:{line}: byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        ) from None


def read_names(path: Path) -> list[str]:
    """The lines of a class list that are not blank.

    Raises:
        UnreadableFile: As `read_text`.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def json_keys(path: Path) -> set[str]:
    """Keys that stand near the beginning or the end of a JSON file, and `[` if it is a list; it is not read whole."""
    try:
        with open_regular(path) as file:
            head = file.read(_SNIFFED)
            file.seek(max(file.seek(0, os.SEEK_END) - _SNIFFED, 0))
            tail = file.read(_SNIFFED)
    except OSError:
        return set()
    keys = {key.decode("utf-8", "replace") for key in re.findall(rb'"(\w+)"\s*:', head + b" " + tail)}
    return keys | ({"["} if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") else set())


def require_size(recorded: tuple[int, int], picture: Path, where: str) -> tuple[int, int]:
    """The size (H, W) of a picture, which an annotation file must state rightly.

    Args:
        recorded: (H, W) of the annotation file; zeros where it does not say.
        picture: The file.
        where: Of the annotation, for messages.

    Raises:
        AnnotationError: The sizes differ.
        UnreadableFile: The picture cannot be read.
    """
    size = image_size(picture)
    if 0 not in recorded and recorded != size:
        turned = " (the other way round: EXIF may turn the picture)" if recorded == size[::-1] else ""
        raise AnnotationError(
            f"{where}: gives height {recorded[0]} and width {recorded[1]}, but {picture} has {size[0]} and "
            f"{size[1]}{turned}; correct the annotation or restore the picture"
        )
    return size
