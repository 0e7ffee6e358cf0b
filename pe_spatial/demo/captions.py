"""Synthetic scenes that are described in words: the color, the shape and the place of one object or two.

Some combinations of color, shape and place are held out: no scene for training has them, though every two of their
words are seen together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from pe_spatial.demo.room import CLASSES, Room, Thing, furnish
from pe_spatial.demo.scenes import Scene, paint
from pe_spatial.demo.textures import thing_texture

COLORS = {"red": 0.0, "yellow": 0.15, "green": 0.35, "cyan": 0.5, "blue": 0.65, "purple": 0.83}  # hues
PLACES = {"on the left": (0.15, 0.32), "in the middle": (0.42, 0.58), "on the right": (0.68, 0.85)}  # of the width
SIDE = 48  # of the scenes in pixels

_DIAMETERS = (0.3, 0.42)  # of the objects, relative to the side
_HUE_SPREAD = 0.02
_RADIUS = 0.45  # meters
_TILT = 0.4  # radians
_UPWARD = 0.3  # highest center, relative to the side
_TWO_OBJECTS = 0.4  # share of the scenes
_ALONE = 0.25  # share of the objects whose color alone is said, and of those whose shape alone is
_PLACED = 0.35  # share of the objects whose place is said


@dataclass(frozen=True)
class Words:
    """What is said of an object; None says nothing.

    Args:
        color: One of `COLORS`.
        shape: One of `CLASSES`.
        place: One of `PLACES`.
    """

    color: str | None = None
    shape: str | None = None
    place: str | None = None

    def __str__(self) -> str:
        text = " ".join(word for word in ("a", self.color, self.shape or "thing") if word)
        return f"{text} {self.place}" if self.place else text

    def fits(self, other: "Words") -> bool:
        """Whether all that is said is true of an object that `other` describes in full."""
        pairs = ((self.color, other.color), (self.shape, other.shape), (self.place, other.place))
        return all(said in (None, true) for said, true in pairs)


# all full descriptions, and one place of every second pair of color and shape
ALL_WORDS = tuple(Words(*words) for words in product(COLORS, CLASSES, PLACES))
HELD_OUT = frozenset(
    Words(color, shape, tuple(PLACES)[-(i + j) % len(PLACES)])
    for i, color in enumerate(COLORS)
    for j, shape in enumerate(CLASSES)
    if (i + j) % 2 == 0
)


def caption(said: Sequence[Words]) -> str:
    """One sentence about several objects: "a red disc on the left and a blue box"."""
    return " and ".join(map(str, said))


def is_true(said: Sequence[Words], objects: Sequence[Words]) -> bool:
    """Whether each thing that is said is true of some object of a scene."""
    return all(any(words.fits(thing) for thing in objects) for words in said)


def draw_objects(rng: np.random.Generator, held_out: bool = False, count: int | None = None) -> tuple[Words, ...]:
    """Objects in full words, at different places.

    Args:
        rng: Source of everything random.
        held_out: Take combinations of `HELD_OUT` alone, instead of all others.
        count: How many; None: one or two.
    """
    if count is None:
        count = 1 + int(rng.uniform() < _TWO_OBJECTS)
    chosen: list[Words] = []
    while len(chosen) < count:
        taken = {words.place for words in chosen}
        allowed = [words for words in ALL_WORDS if (words in HELD_OUT) == held_out and words.place not in taken]
        chosen.append(allowed[int(rng.integers(len(allowed)))])
    return tuple(chosen)


def draw_caption(rng: np.random.Generator, objects: Sequence[Words]) -> tuple[Words, ...]:
    """What a caption says of a scene: of some of its objects, and not always everything."""
    chosen = [objects[i] for i in rng.permutation(len(objects))[: 1 + int(rng.integers(len(objects)))]]
    said = []
    for thing in chosen:
        kind = rng.uniform()
        color = thing.color if kind > _ALONE else None
        shape = thing.shape if kind < 1 - _ALONE else None
        said.append(Words(color, shape, thing.place if rng.uniform() < _PLACED else None))
    return tuple(said)


def described_room(rng: np.random.Generator, objects: Sequence[Words], size: int = SIDE) -> Room:
    """A room with the described objects; `paint` shows it.

    Args:
        rng: Source of everything else.
        objects: In full words.
        size: Side of the square scene in pixels.
    """
    room = furnish(rng, size, (), 0)
    return replace(room, things=tuple(_thing(rng, room, words) for words in objects))


def draw_described(seed: int | Sequence[int], objects: Sequence[Words], size: int = SIDE) -> Scene:
    """A scene of `described_room`; equal seeds give equal scenes."""
    return paint(described_room(np.random.default_rng(seed), objects, size), time=0)


def _thing(rng: np.random.Generator, room: Room, words: Words) -> Thing:
    if not (words.color and words.shape and words.place):
        raise ValueError(f"{words} is not in full words: an object has a color, a shape and a place")
    camera = room.camera
    side = camera.size[1]
    diameter = side * rng.uniform(*_DIAMETERS)
    label = CLASSES.index(words.shape)
    hue = COLORS[words.color] + rng.normal(0, _HUE_SPREAD)
    return Thing(
        label=label,
        radius=_RADIUS,
        center=side * np.array([rng.uniform(*PLACES[words.place]), rng.uniform(_UPWARD, 1)]),
        distance=2 * camera.focal * _RADIUS / diameter,
        angle=rng.uniform(-_TILT, _TILT),
        texture=thing_texture(rng, label, (), hue),
        velocity=np.array([0.0, rng.uniform(-0.01, 0.01) * side]),  # it keeps its place
        spin=rng.uniform(-0.08, 0.08),
        sway=np.array([0.05, 0.2, rng.uniform(0, 2 * np.pi)]),
    )
