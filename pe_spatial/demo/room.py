"""The room of synthetic scenes: a camera, a wall, a floor and objects, and where each appears in the image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pe_spatial.demo.textures import Array, Texture, bounce, room_texture, thing_texture

CLASSES = ("disc", "box", "triangle")
# an object of which less than this fraction is visible is taken out of its scene
MIN_VISIBLE = 0.25

# projected diameters, camera height and radii are relative to the shorter side of the image and to one meter
_DIAMETERS = (0.18, 0.55)
_RADII = (0.3, 0.6)
_DISTANCES = (3.0, 7.0)  # meters, of things whose diameter in pixels is given
_CAMERA_HEIGHT = 1.8
_TILT = 0.5  # radians; no object is far from upright
# no outline reaches further than this many radii from its center
_REACH = 1.25


@dataclass(frozen=True)
class Camera:
    """Pinhole camera: image size (H, W), focal length and principal point in pixels, meters above the floor."""

    size: tuple[int, int]
    focal: float
    cx: float
    cy: float
    height: float


def floor_depth(camera: Camera) -> Array:
    """[H, 1], meters; infinite at and above the horizon."""
    below = np.arange(camera.size[0]) + 0.5 - camera.cy
    return np.where(below > 0, camera.focal * camera.height / np.where(below > 0, below, 1), np.inf)[:, None]


# --- outlines: signed distance in radii, negative inside --------------------------------------------------------------
def _disc(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 1


def _box(x: Array, y: Array) -> Array:
    dx, dy = np.abs(x) - 0.95, np.abs(y) - 0.7
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def _triangle(x: Array, y: Array) -> Array:
    # three half planes around the center; the circumscribed circle has twice the radius of the inscribed one
    sides = [np.cos(a) * x + np.sin(a) * y for a in (np.pi / 2, np.pi * 7 / 6, np.pi * 11 / 6)]
    return np.maximum.reduce(sides) - _REACH / 2


_OUTLINES = (_disc, _box, _triangle)


# --- objects ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Thing:
    """An object of a scene: where it is, how it looks and how it moves."""

    label: int
    radius: float  # meters
    center: Array  # [2], where its center appears at time 0, pixels (x, y)
    distance: float  # meters
    angle: float
    texture: Texture
    velocity: Array  # [2] pixels per frame
    spin: float  # radians per frame
    sway: Array  # [3]: relative amplitude, frequency in radians per frame, and phase of the distance

    def at(self, time: int, camera: Camera) -> "Thing":
        """Where it is after some frames: it bounces off the edges of the image, and stays above the floor."""
        amplitude, frequency, phase = self.sway
        distance = self.distance * (1 + amplitude * (np.sin(frequency * time + phase) - np.sin(phase)))
        radius = camera.focal * self.radius / distance
        lowest = min(camera.size[0], camera.cy + camera.focal * camera.height / distance - _REACH * radius)
        center = np.array(
            [
                bounce(self.center[0] + self.velocity[0] * time, 0, camera.size[1]),
                min(bounce(self.center[1] + self.velocity[1] * time, 0, camera.size[0]), lowest),
            ]
        )
        return replace(self, center=center, distance=float(distance), angle=self.angle + self.spin * time)


@dataclass(frozen=True, eq=False)
class Room:
    """A wall, a floor and what stands between them and the camera."""

    camera: Camera
    wall_distance: float
    wall: Texture
    floor: Texture
    things: tuple[Thing, ...]
    grain: int  # seed of the sensor's noise


def furnish(
    rng: np.random.Generator,
    size: int | tuple[int, int],
    photographs: Sequence[NDArray[np.uint8]],
    count: int,
    diameters: tuple[float, float] | None = None,
) -> Room:
    """Draw a room with up to `count` things, those that others hide left out.

    Args:
        rng: Source of everything random.
        size: (H, W) of the images in pixels, or one number for both.
        photographs: RGB [h, w, 3] that may be printed on surfaces.
        count: Things to place.
        diameters: Smallest and largest in pixels; None: from a sixth to half of the shorter side.

    Raises:
        ValueError: Fewer than 32 pixels.
    """
    H, W = (size, size) if isinstance(size, int) else size
    if min(H, W) < 32:
        raise ValueError(f"size {(H, W)} (H, W) is below 32 pixels, where shapes cannot be told apart")
    focal = float(min(H, W))
    camera = Camera((H, W), focal, W / 2, H * rng.uniform(0.3, 0.5), _CAMERA_HEIGHT)
    room = Room(
        camera=camera,
        wall_distance=rng.uniform(9, 12),  # behind the farthest object: 2 * 0.6 / 0.18 = 6.7 m, swaying to 8.3
        wall=room_texture(rng, photographs),
        floor=room_texture(rng, ()),
        things=tuple(_thing(rng, camera, photographs, diameters) for _ in range(count)),
        grain=int(rng.integers(2**31)),
    )
    return replace(room, things=_visible(room))


def _thing(
    rng: np.random.Generator,
    camera: Camera,
    photographs: Sequence[NDArray[np.uint8]],
    diameters: tuple[float, float] | None,
) -> Thing:
    H, W = camera.size
    radius = rng.uniform(*_RADII)
    if diameters is None:
        diameter = min(H, W) * np.exp(rng.uniform(*np.log(_DIAMETERS)))
        distance = 2 * camera.focal * radius / diameter
    else:  # what appears small is small, or it would stand behind the wall
        diameter = np.exp(rng.uniform(*np.log(diameters)))
        distance = rng.uniform(*_DISTANCES)
        radius = diameter * distance / (2 * camera.focal)
    lowest = min(0.95 * H, camera.cy + camera.focal * camera.height / distance - _REACH * diameter / 2)
    center = np.array([rng.uniform(0.1, 0.9) * W, rng.uniform(min(0.15 * H, lowest), lowest)])
    label = int(rng.integers(len(CLASSES)))
    return Thing(
        label=label,
        radius=radius,
        center=center,
        distance=float(distance),
        angle=rng.uniform(-_TILT, _TILT),
        texture=thing_texture(rng, label, photographs),
        velocity=rng.uniform(-0.02, 0.02, 2) * min(H, W),
        spin=rng.uniform(-0.08, 0.08),
        sway=np.array([rng.uniform(0, 0.12), rng.uniform(0.1, 0.3), rng.uniform(0, 2 * np.pi)]),
    )


def _visible(room: Room) -> tuple[Thing, ...]:
    """The things that remain when the least visible one goes, again and again, until each shows enough of itself."""
    things = room.things
    while things:
        shapes = [rasterize(thing, room.camera) for thing in things]
        ids = assign_ids(things, shapes, room.camera.size)
        fractions = [(ids == n).sum() / max(shape.area, 1) for n, shape in enumerate(shapes, 1)]
        worst = int(np.argmin(fractions))
        if fractions[worst] >= MIN_VISIBLE:
            break
        things = things[:worst] + things[worst + 1 :]
    return things


def far_to_near(things: Sequence[Thing]) -> list[int]:
    """The order in which things are painted over each other."""
    return sorted(range(len(things)), key=lambda n: -things[n].distance)


@dataclass(frozen=True, eq=False)
class Shape:
    """A thing on the pixel grid.

    It has a window of the image, the distance from the outline in pixels there, and coordinates in radii: `u` and `v`
    turn with the thing, `down` points down in the image.
    """

    window: tuple[slice, slice]
    outline: Array
    u: Array
    v: Array
    down: Array
    radius: float  # pixels
    area: int  # pixels inside the outline, those beyond the edges of the image included


def rasterize(thing: Thing, camera: Camera) -> Shape:
    """What a thing covers in the image."""
    radius = camera.focal * thing.radius / thing.distance
    reach = int(np.ceil(_REACH * radius + 1))
    column, row = (int(np.floor(c)) for c in thing.center)
    x = np.arange(column - reach, column + reach + 1) + 0.5 - thing.center[0]
    y = (np.arange(row - reach, row + reach + 1) + 0.5 - thing.center[1])[:, None]
    cos, sin = np.cos(thing.angle) / radius, np.sin(thing.angle) / radius
    u, v = cos * x + sin * y, cos * y - sin * x
    outline = _OUTLINES[thing.label](u, v) * radius
    inside_rows = slice(max(0, reach - row), max(0, camera.size[0] + reach - row))
    inside_columns = slice(max(0, reach - column), max(0, camera.size[1] + reach - column))
    crop = inside_rows, inside_columns
    window = (
        slice(max(0, row - reach), max(0, min(camera.size[0], row + reach + 1))),
        slice(max(0, column - reach), max(0, min(camera.size[1], column + reach + 1))),
    )
    down = np.broadcast_to(y / radius, u.shape)
    return Shape(window, outline[crop], u[crop], v[crop], down[crop], radius, int((outline <= 0).sum()))


def assign_ids(things: Sequence[Thing], shapes: Sequence[Shape], size: tuple[int, int]) -> NDArray[np.int32]:
    """Int32 [H, W]: 0 where the room is seen, n + 1 where thing n is."""
    ids = np.zeros(size, np.int32)
    for n in far_to_near(things):
        ids[shapes[n].window][shapes[n].outline <= 0] = n + 1
    return ids
