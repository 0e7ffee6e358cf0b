"""Which files are meant: a file, a folder, a pattern, a list, a tar, or several of them, to images and videos."""

import glob
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pe_spatial.common.archives import INDEX_SUFFIX, Member, read_images
from pe_spatial.common.errors import UnreadableFile, UserError, few, printable
from pe_spatial.common.reading import read_whole
from pe_spatial.common.suffixes import AMBIGUOUS_SUFFIXES, IMAGE_SUFFIXES, VIDEO_SUFFIXES

Spec = str | Path | Sequence[str | Path]
Kind = Literal["image", "video", "tar"]

_SUFFIXES: dict[Kind, tuple[str, ...]] = {"image": IMAGE_SUFFIXES, "video": VIDEO_SUFFIXES, "tar": (".tar",)}
_KINDS = {suffix: kind for kind in reversed(_SUFFIXES) for suffix in _SUFFIXES[kind]}  # .gif is an image
_NAMES: dict[Kind, str] = {"image": "image", "video": "video", "tar": "tar file"}


class NoSources(UserError, FileNotFoundError):  # noqa: N818 - names the state of the disk, as FileNotFoundError does
    """Nothing of the kind that is needed lies where the user said; the message says what was looked for."""

    _one_line = True


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that is meant.

    Attributes:
        path: The file; of an image in a tar, the path of the tar followed by the name of the member.
        kind: What it is.
        name: The path below the root of all, with slashes. It begins with `..` where a list names a file elsewhere.
        archive: (tar, offset, bytes) of an image in a tar, as `read_image` takes it.
        member: What its tar calls it.
    """

    path: Path
    kind: Kind
    name: str
    archive: tuple[str, int, int] | None = None
    member: str = ""

    @property
    def file(self) -> Path:
        """The file on disk; of an image in a tar, the tar."""
        return self.path if self.archive is None else Path(self.archive[0])


class Sources(list[Entry]):
    """The files that are meant, in their order.

    Attributes:
        root: The folder that their names start from; it does not depend on the files that exist today.
        passed_over: Number of files that were left out, by suffix.
    """

    def __init__(self, entries: Iterable[Entry], root: Path, passed_over: Mapping[str, int]) -> None:
        super().__init__(entries)
        self.root = root
        self.passed_over = passed_over

    @property
    def warning(self) -> str:
        """A line about the files that were left out; empty if there are none."""
        total = sum(self.passed_over.values())
        if not total:
            return ""
        most = sorted(self.passed_over.items(), key=lambda item: (-item[1], item[0]))
        shown = few((f"{count} {suffix or 'without suffix'}" for suffix, count in most), 5)
        return printable(f"files in {self.root} left out because of their names: {total} ({shown})")


def resolve_sources(
    spec: Spec,
    kinds: Sequence[Kind] = ("image", "video"),
    *,
    recursive: bool = True,
    read_tar: Callable[[Path], Iterable[Member]] = read_images,
) -> Sources:
    """The files that an `--input` or the source of a dataset stands for.

    Args:
        spec: One of these, or a sequence of them, which keeps its order:
            a file, whatever its suffix;
            a folder, with the folders below it, in natural order (hidden files and `__MACOSX` are left out);
            a pattern such as `frames/**/*.png`, unless a file has that name;
            a `.txt` file with one path per line, relative to it; blank lines and lines that begin with # do not count;
            a tar file, or a folder or pattern of tar files where no loose file is found: the images in them.
        kinds: What is wanted; "tar" stands for the images in tar files beside loose ones.
        recursive: Whether to look into the folders of a folder.
        read_tar: Finds the images in a tar.

    Raises:
        NoSources: There is nothing of that kind.
        UserError: The file that is named is of another kind.
        UnreadableFile: A tar cannot be read.
    """
    search = _Search(tuple(kinds), recursive)
    if isinstance(spec, str | Path):
        search.add(Path(spec).expanduser())
        root = source_root(spec)
    else:
        for item in spec:
            search.add(Path(item).expanduser(), listed=True)
        parents = {os.path.abspath(path.parent) for path, _ in search.found}
        root = Path(os.path.commonpath(parents)) if parents else Path()
    entries: list[Entry] = []
    for path, kind in search.found:
        if kind == "tar":
            for member, offset, size in read_tar(path):
                inside = path / member
                entries.append(Entry(inside, "image", _below(inside, root), (str(path), offset, size), member))
        else:
            entries.append(Entry(path, kind, _below(path, root)))
    return Sources(entries, root, search.passed_over)


def outside(sources: Sources, output: Path) -> list[Entry]:
    """The files that are not in the folder of the results, which may lie in that of the files.

    Raises:
        UserError: Both are the same folder, or no file is left.
    """
    root, folder = sources.root.resolve(), output.resolve()
    if root == folder:
        raise UserError(
            f"--output {output} is the folder of the input; give another folder (it may be inside the input)"
        )
    if not folder.is_relative_to(root):
        return list(sources)
    below = f"{folder.relative_to(root).as_posix()}/"
    left = [entry for entry in sources if not entry.name.startswith(below)]
    if not left:
        raise UserError(
            f"{sources.root}: it contains only files of the output folder {output}; give the folder of your pictures"
        )
    return left


def natural_order(paths: Iterable[str | Path]) -> list[str]:
    """Paths as strings, sorted by folder and name with numbers compared as numbers (2.jpg before 10.jpg)."""
    texts = [str(path) for path in paths]
    same = os.path.commonprefix(texts).rfind(os.sep) + 1

    def key(path: str) -> tuple[list[str | int], str]:
        parts: list[str | int] = list(re.split(r"(\d+)", path[same:]))
        parts[1::2] = map(int, parts[1::2])  # between numbers there is always text, though it may be empty
        return parts, path

    return sorted(texts, key=key)


def source_root(spec: str | Path) -> Path:
    """The folder that names of a single source start from; it does not depend on the files that exist today."""
    path = Path(spec).expanduser()
    if path.is_dir():
        return path
    folder = path.parent
    while glob.has_magic(str(folder)) and not folder.is_dir():
        folder = folder.parent
    return folder


class _Search:
    """Collects files by kind, and counts those that are of none."""

    def __init__(self, kinds: tuple[Kind, ...], recursive: bool) -> None:
        self.kinds = kinds
        self._wanted = " or ".join(_NAMES[kind] for kind in kinds)
        self.recursive = recursive
        self.found: list[tuple[Path, Kind]] = []
        self.passed_over: Counter[str] = Counter()

    def add(self, path: Path, listed: bool = False) -> None:
        """Add what a path stands for; a listed one counts although no such file exists."""
        is_pattern, before = glob.has_magic(str(path)), len(self.found)
        suffix = path.suffix.lower()
        unseen = suffix not in (".gif", *AMBIGUOUS_SUFFIXES)
        if listed and not is_pattern and unseen and any(suffix in _SUFFIXES[kind] for kind in self.kinds):
            self.found.append((path, self._kind_of_named(path)))  # without a look at the disk: lists may be long
        elif path.is_dir():
            locked: list[str] = []
            self._add_all(_walk(path, self.recursive, locked))
            self.found += [(Path(folder), self.kinds[0]) for folder in locked]  # and named where they are read
        elif path.is_file():
            if suffix == ".txt":
                self._add_list(path)
            else:
                self.found.append((path, self._kind_of_named(path)))
        elif is_pattern:
            self._add_all(_matches(path))
        if len(self.found) == before:
            if not listed or path.is_dir():
                raise NoSources(self._nothing(path))
            self.found.append((path, self._kind_of_named(path)))

    def _nothing(self, path: Path) -> str:
        suffixes = " ".join(suffix for kind in self.kinds for suffix in _SUFFIXES[kind])
        left = Sources((), path, self.passed_over).warning
        looked = f"looked for the suffixes {suffixes}" + (f"; {left}" if left else "")
        if path.is_dir():
            return f"{path} contains no {self._wanted}; {looked}"
        if path.is_file():
            return f"{path} names no {self._wanted}; write one path per line"
        if glob.has_magic(str(path)):
            return f"the pattern {path} matches no {self._wanted}; {looked}"
        return f"{path}: no {self._wanted} there: no such file or folder exists{_nearest(path)}"

    def _add_all(self, paths: Iterable[str]) -> None:
        """Files of the kinds that are wanted, in natural order; tars only where nothing else is."""
        kinds = {path: self._kind(path) for path in paths}
        loose = [path for path, kind in kinds.items() if kind in self.kinds]
        chosen = loose or ([path for path, kind in kinds.items() if kind == "tar"] if "image" in self.kinds else [])
        self.found += [(Path(path), kind) for path in natural_order(chosen) if (kind := kinds[path])]
        left = kinds.keys() - set(chosen)
        self.passed_over.update(_suffix(path) for path in left if not path.endswith(INDEX_SUFFIX))

    def _add_list(self, path: Path) -> None:
        for line in read_whole(path).decode("utf-8-sig", "surrogateescape").splitlines():
            name = line.strip()
            if name and not name.startswith("#"):
                entry = path.parent / Path(name).expanduser()
                if entry.suffix.lower() == ".txt":
                    raise UserError(f"{path}: {name} is a list inside a list; write paths of images or videos")
                self.add(entry, listed=True)

    def _kind(self, path: str) -> Kind | None:
        """By the suffix; a GIF that moves is a video where videos are wanted, and no source code is."""
        suffix = _suffix(path)
        if suffix in AMBIGUOUS_SUFFIXES:
            return "video" if _is_video(Path(path)) else None
        if suffix == ".gif" and "video" in self.kinds:
            return "video" if "image" not in self.kinds or _moves(Path(path)) else "image"
        return _KINDS.get(suffix)

    def _kind_of_named(self, path: Path) -> Kind:
        """A file that the user names is tried whatever its suffix, but not as something that it is not."""
        kind = self._kind(str(path))
        if kind in self.kinds or kind == "tar" and "image" in self.kinds:
            return kind
        if kind is not None:
            raise UserError(
                f"{path} has the suffix of a {_NAMES[kind]}, but must be of kind {self._wanted}; give another file"
            )
        if len(self.kinds) == 1:
            return self.kinds[0]
        return "video" if _is_video(path) else "image"


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _is_video(path: Path) -> bool:
    from pe_spatial.common.video import is_video  # heavy

    return is_video(path)


def _moves(path: Path) -> bool:
    from pe_spatial.common.video import count_frames

    try:
        return count_frames(path) > 1
    except UnreadableFile:
        return False  # and is reported where it is read


def _walk(root: Path, recursive: bool = True, locked: list[str] | None = None) -> Iterator[str]:
    """The files below a folder. A folder that several links lead to is entered once, so links in a circle end.

    Args:
        root: Of the files.
        recursive: Whether to enter the folders in it.
        locked: Takes the folders below it that may not be listed.
    """
    folders, links = [str(root)], deque[str]()
    entered: set[tuple[int, int]] = set()
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        try:
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in entered:
                continue
            entered.add((state.st_dev, state.st_ino))
            items = sorted(os.scandir(folder), key=lambda item: item.name)
        except OSError:
            if locked is None or folder == str(root):
                raise
            locked.append(folder)
            continue
        for item in items:
            if item.name.startswith(".") or item.name == "__MACOSX":
                continue
            if not _is_folder(item):
                yield item.name if folder == "." else item.path
            elif recursive:
                (links if item.is_symlink() else folders).append(item.path)


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


def _matches(pattern: Path) -> Iterator[str]:
    """The files that a pattern matches; `**` stands for any number of folders."""
    root = source_root(pattern)
    parts = pattern.parts[len(root.parts) :]
    if ".." in parts:
        raise UserError(
            f"the pattern {pattern} leaves its folder {root} through `..`; start it with the folder that you mean"
        )
    if "**" not in parts:
        found = (root / name for name in glob.iglob(str(Path(*parts)), root_dir=root))
        return (str(path) for path in found if not (path.is_dir() or path.name.startswith("._")))
    # `glob` would go round links in a circle
    return (path for path in _walk(root) if _fits(Path(path).parts[len(root.parts) :], parts))


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fits(names[skipped:], parts[1:]) for skipped in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _below(path: Path, root: Path) -> str:
    text, start = str(path), os.path.join(root, "")
    relative = text.removeprefix(start) if text.startswith(start) else os.path.relpath(path, root)
    return relative.replace(os.sep, "/")


def _nearest(path: Path) -> str:
    """The name that may be meant by the first part of a path that does not exist."""
    while not path.parent.is_dir():
        path = path.parent
    near = get_close_matches(path.name, os.listdir(path.parent), n=1)
    return f"; did you mean {str(path.parent / near[0])!r}?" if near else ""
