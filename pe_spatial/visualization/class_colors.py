"""The one door to colors of classes: a class has its color by its name, whatever the task and the order of the list."""

from collections.abc import Sequence
from functools import cache
from zlib import crc32

from pe_spatial.visualization.colors import DISTINCT, bright_color, color_of

RGB = tuple[int, int, int]

# what is around the objects: gray, so that the objects stand out
MUTED: dict[str, RGB] = {
    **dict.fromkeys(
        (
            "background",
            "other",
            "others",
            "void",
            "unlabeled",
            "unlabelled",
            "unknown",
            "ignore",
            "none",
            "rest",
            "misc",
        ),
        (128, 128, 128),
    ),
    "wall": (150, 156, 166),
    "floor": (112, 104, 96),
    "ceiling": (190, 190, 186),
}
# the classes of the synthetic scenes, which many pictures of the documentation show
_RESERVED = {"disc": 4, "box": 0, "triangle": 2}


def class_colors(classes: Sequence[str], given: Sequence[Sequence[int]] | None = None) -> list[list[int]]:
    """The colors of classes.

    The color of a class follows from its name. In a list of at most 16 classes, two names that would get one color
    get two: the second takes the next free one, in an order that does not depend on the list. Background and "other"
    are gray. A data set that states colors keeps them.

    Args:
        classes: Names by label.
        given: [[r, g, b], …] that the data set states, for the first labels or for all.

    Returns:
        [[r, g, b], …] by label, 0 to 255.
    """
    stated = [list(color) for color in given or ()][: len(classes)]
    by_name = _colors_of(tuple(classes))
    return stated + [list(by_name[name]) for name in classes[len(stated) :]]


def is_muted(name: str) -> bool:
    """Whether a class is what is around the objects: its tint is weaker."""
    return _plain(name) in MUTED


def _plain(name: str) -> str:
    return name.strip().strip("_").lower()


@cache
def _colors_of(classes: tuple[str, ...]) -> dict[str, RGB]:
    plain = {name: _plain(name) for name in classes}
    colors = {name: MUTED[word] for name, word in plain.items() if word in MUTED}
    others = sorted((name for name in plain if name not in colors), key=lambda name: crc32(plain[name].encode()))
    few = len(others) <= DISTINCT  # else no list could have colors that an eye keeps apart
    taken: set[int] = set()
    for name in sorted(others, key=lambda name: plain[name] not in _RESERVED):  # stable: reserved names come first
        code = crc32(plain[name].encode())
        slot = _RESERVED.get(plain[name], code % DISTINCT)
        while few and slot in taken:
            slot = (slot + 1) % DISTINCT
        taken.add(slot)
        colors[name] = color_of(slot) if few or plain[name] in _RESERVED else bright_color(code % 4096)
    return colors
