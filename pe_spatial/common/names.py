"""Names of outputs that never meet."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath
from unicodedata import normalize

from pe_spatial.common.suffixes import VIDEO_SUFFIXES

# a file system takes 255 bytes; the rest is for `_000001`, a suffix, and what temporary files add
_LONGEST = 180
_FRAME = re.compile(r"_\d{6,}$")  # what names of single frames add to that of their video


def output_stems(names: Iterable[str]) -> dict[str, str]:
    """What the outputs of files are called, without suffix: paths below the output folder, different in any case.

    A file is called as its input without suffix. Where that would meet another (`a.jpg` and `a.png`, `A.jpg` and
    `a.jpg`, the frames of `a.mp4` and a folder `a`), the suffix stays, and a digest of the name follows where that is
    not enough. What a file is called does not depend on the order, nor on files that it does not meet. Outputs add one
    suffix; those of a video may also be `STEM/...` and `STEM_000001.*`.

    Args:
        names: Paths relative to the input, with slashes; absolute ones and those with `..` are put below it.
    """
    levels = dict.fromkeys(names, 0)
    while True:
        stems = {name: _stem(name, level) for name, level in levels.items()}
        keys = {name: _key(stem) for name, stem in stems.items()}
        times = Counter(keys.values())
        reserved = {key for stem in keys.values() for key in _taken(stem)}
        meeting = [
            name
            for name, key in keys.items()
            if times[key] > 1 or (key in reserved and name.lower().endswith(VIDEO_SUFFIXES))
        ]
        if not meeting:
            return stems
        for name in meeting:
            levels[name] += 1


def _stem(name: str, level: int) -> str:
    """The path of an output: level 0 without suffix, 1 with it, from 2 on with an ever longer digest."""
    parts = ["_" if part == ".." else part for part in PurePosixPath(name).parts if part.strip("/")]
    *folders, last = parts or ["_"]
    stem = last if level else PurePosixPath(last).stem
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    if level > 1:
        stem = f"{stem}-{digest[: 4 * level]}"
    encoded = stem.encode("utf-8", "surrogateescape")
    if len(encoded) > _LONGEST:
        stem = f"{encoded[:_LONGEST].decode('utf-8', 'ignore')}-{digest[: 4 * max(level, 2)]}"
    return "/".join([*folders, stem])


def _key(stem: str) -> str:
    """Equal for names that some file system takes for the same."""
    return normalize("NFC", normalize("NFC", stem).casefold())


def _taken(key: str) -> Iterable[str]:
    """Stems of videos whose frames could meet this output."""
    yield from (str(parent) for parent in PurePosixPath(key).parents)
    if _FRAME.search(key):
        yield _FRAME.sub("", key)
