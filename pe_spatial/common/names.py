"""Names of outputs that never meet, and names that stay in their folder."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from unicodedata import normalize

from pe_spatial.common.errors import OptionError
from pe_spatial.common.suffixes import VIDEO_SUFFIXES

# a file system takes 255 bytes; the rest is for `_000001`, a suffix, and what temporary files add
_LONGEST = 180
_FOLDER_NAME = re.compile(r"\w[\w.-]{0,99}")
_FRAME = re.compile(r"_\d{6,}$")  # what names of single frames add to that of their video


def leaves(name: str) -> bool:
    """Whether a path that should be relative to a folder leads out of it: absolute, or with `..`."""
    return name.startswith("/") or ".." in name.split("/")


def check_folder_names(names: Sequence[str]) -> None:
    """Refuse names, given by a user, that cannot name a folder of results each.

    Raises:
        OptionError: No name, one that leads to another folder, or one that is given twice, in whatever case.
    """
    for name in names:
        if not _FOLDER_NAME.fullmatch(name):
            raise OptionError(
                f"{name!r} cannot be the name of a results folder; use letters, digits, _, - and ., without a slash"
            )
    lower = [name.casefold() for name in names]
    twice = next((name for name in names if lower.count(name.casefold()) > 1), None)
    if twice is not None:
        raise OptionError(f"the name {twice!r} is given twice; every name needs its own folder")


def output_stems(names: Iterable[str]) -> dict[str, str]:
    """What the outputs of files are called, without suffix: paths below the output folder, different in any case.

    A file is called as its input without suffix. Where that would meet another (`a.jpg` and `a.png`, `A.jpg` and
    `a.jpg`, the frames of `a.mp4` and a folder `a`), the suffix stays, and a digest of the name follows where that is
    not enough. What a file is called does not depend on the order, nor on files that it does not meet. Outputs add one
    suffix; those of a video may also be `STEM/...` and `STEM_000001.*`.

    Args:
        names: Paths relative to the input, with slashes; absolute ones and those with `..` are put below it.
    """
    stems = {name: _stem(name, 0) for name in names}
    keys = {name: _key(stem) for name, stem in stems.items()}
    levels: Counter[str] = Counter()
    while True:
        times = Counter(keys.values())
        videos = [name for name in keys if name.lower().endswith(VIDEO_SUFFIXES)]
        reserved = {taken for key in keys.values() for taken in _taken(key)} if videos else set()
        meeting = {name for name, key in keys.items() if times[key] > 1} | {
            name for name in videos if keys[name] in reserved
        }
        if not meeting:
            return stems
        levels.update(meeting)
        for name in meeting:
            stems[name] = _stem(name, levels[name])
            keys[name] = _key(stems[name])


def _stem(name: str, level: int) -> str:
    """The path of an output: level 0 without suffix, 1 with it, from 2 on with an ever longer digest."""
    parts = ["_" if part == ".." else part for part in name.split("/") if part not in ("", ".")]
    *folders, stem = parts or ["_"]
    if level == 0:
        stem = os.path.splitext(stem)[0]
    if level > 1 or len(os.fsencode(stem)) > _LONGEST:
        stem = _with_digest(stem, name, 4 * max(level, 2))
    return "/".join([*folders, stem])


def short_name(name: str) -> str:
    """The name of a file without its suffix, or what stands for it where a file system takes no suffix after it."""
    return _with_digest(name, name, 8) if len(os.fsencode(name)) > _LONGEST else name


def _with_digest(stem: str, name: str, digits: int) -> str:
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:digits]
    return f"{os.fsencode(stem)[:_LONGEST].decode('utf-8', 'ignore')}-{digest}"


def _key(stem: str) -> str:
    """Equal for names that some file system takes for the same."""
    if stem.isascii():
        return stem.lower()
    return normalize("NFC", normalize("NFC", stem).casefold())


def _taken(key: str) -> Iterator[str]:
    """Stems of videos whose frames could meet this output."""
    if match := _FRAME.search(key):
        yield key[: match.start()]
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key
