"""Drawn scenes with exact boxes, instance masks, class labels, metric depth and, in videos, motion.

A pinhole camera looks horizontally into a room: a floor, a far wall, and textured discs, boxes and triangles that face
the camera at known distances. Everything is computed from that geometry:

    an object of radius R meters at (X, Y, Z) appears at (cx + f·X/Z, cy + f·Y/Z) with a radius of f·R/Z pixels
    the floor, h meters below the camera, appears in row v at the depth f·h / (v - cy), as far as the wall

X points right, Y down, Z forward; depth is Z. Pixel (row i, column j) has its center at (j + 0.5, i + 0.5); it belongs
to the nearest object whose outline contains that center. A scene is a pure function of its arguments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("disc", "box", "triangle")
SEMANTIC_CLASSES = ("wall", "floor", *CLASSES)
# an object of which less than this fraction is visible is taken out of its scene
MIN_VISIBLE = 0.25

_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
_PHOTOGRAPH_SIZE = 128
# projected diameters, camera height and radii are relative to the shorter side of the image and to one meter
_DIAMETERS = (0.18, 0.55)
_RADII = (0.3, 0.6)
_CAMERA_HEIGHT = 1.8
# as real categories have typical looks: discs mostly red, boxes blue, triangles green, and none far from upright
_HUES = (0.0, 0.62, 0.3)
_TYPICAL = 0.9
_TILT = 0.5
# no outline reaches further than this many radii from its center
_REACH = 1.25

Array = NDArray[np.float64]


# --- what a scene is --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Camera:
    """Pinhole camera: image size (H, W), focal length and principal point in pixels, meters above the floor."""

    size: tuple[int, int]
    focal: float
    cx: float
    cy: float
    height: float


@dataclass(frozen=True, eq=False)
class Scene:
    """One drawn picture and the truth about it. Objects are the rows 0…N-1 of `labels` and `distances`."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    ids: NDArray[np.int32]  # [H, W], 0 = background, n + 1 = object n
    depth: NDArray[np.float32]  # [H, W] meters
    labels: NDArray[np.int64]  # [N], rows of CLASSES
    distances: NDArray[np.float64]  # [N] meters
    camera: Camera

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """[N, H, W], the visible part of every object; empty for one that is hidden or has left the image."""
        return self.ids == np.arange(1, len(self.labels) + 1)[:, None, None]

    @cached_property
    def boxes(self) -> NDArray[np.float32]:
        """[N, 4] xyxy around the visible parts, the far edge outside; zeros for an empty mask."""
        boxes = np.zeros((len(self.labels), 4), np.float32)
        for box, mask in zip(boxes, self.masks, strict=True):
            rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
            if len(rows):
                box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return boxes

    @cached_property
    def semantic(self) -> NDArray[np.uint8]:
        """[H, W], rows of SEMANTIC_CLASSES."""
        of_object = len(SEMANTIC_CLASSES) - len(CLASSES) + self.labels
        is_floor = _floor_depth(self.camera) <= self.depth * (1 + 1e-5)  # depth is rounded to float32
        return np.where(self.ids > 0, np.append(0, of_object)[self.ids], is_floor).astype(np.uint8)


def draw_scene(
    seed: int | Sequence[int], size: int | tuple[int, int] = 128, photographs: Sequence[NDArray[np.uint8]] = ()
) -> Scene:
    """One scene of one to five objects.

    Args:
        seed: Equal seeds give equal scenes.
        size: Height and width in pixels, or one number for both; 32 or more.
        photographs: RGB arrays [H, W, 3] to cut textures from (see `load_photographs`); two surfaces in five use one.
    """
    rng = np.random.default_rng(seed)
    return _paint(_furnish(rng, size, photographs, count=int(rng.integers(1, 6))), time=0)


def draw_video(
    seed: int | Sequence[int],
    size: int | tuple[int, int] = 128,
    frames: int = 20,
    photographs: Sequence[NDArray[np.uint8]] = (),
) -> list[Scene]:
    """A video of two to four objects that move, turn, approach, recede and pass in front of each other.

    Object n is row n, and id n + 1, of every frame; each is visible in the first. Arguments as in `draw_scene`.
    """
    if frames < 1:
        raise ValueError(f"frames {frames} is not a positive number")
    rng = np.random.default_rng(seed)
    room = _furnish(rng, size, photographs, count=int(rng.integers(2, 5)))
    return [_paint(room, time) for time in range(frames)]


def load_photographs() -> list[NDArray[np.uint8]]:
    """Four photographs that scikit-image ships, reduced to 128 pixels; an empty list where it is not installed."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        return []
    paths = [Path(package.origin).parent / "data" / name for name in _PHOTOGRAPHS]
    photographs = []
    for path in paths:
        if path.exists():
            with Image.open(path) as image:
                reduced = image.convert("RGB")
                reduced.thumbnail((2 * _PHOTOGRAPH_SIZE, _PHOTOGRAPH_SIZE))
                photographs.append(np.asarray(reduced))
    return photographs


# --- textures: a pattern in 0…1 over the plane, between two colors, or a photograph ----------------------------------
Pattern = Callable[[Array, Array], Array]


def _stripes(u: Array, v: Array) -> Array:
    return np.clip(0.5 + 1.5 * np.sin(2 * np.pi * u), 0, 1)


def _checks(u: Array, v: Array) -> Array:
    return np.clip(0.5 + 2.5 * np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v), 0, 1)


def _dots(u: Array, v: Array) -> Array:
    return np.clip(3.5 - 10 * np.hypot((u % 1) - 0.5, (v % 1) - 0.5), 0, 1)


def _waves(u: Array, v: Array) -> Array:
    return 0.5 + 0.25 * (np.sin(2 * np.pi * (u + 0.4 * np.sin(4 * v))) + np.sin(2 * np.pi * (v + 0.4 * np.sin(5 * u))))


def _plain(u: Array, v: Array) -> Array:
    return np.clip(0.5 + 0.15 * v, 0, 1)


_PATTERNS: tuple[Pattern, ...] = (_stripes, _checks, _dots, _waves, _plain)


@dataclass(frozen=True, eq=False)
class _Texture:
    pattern: Pattern
    colors: Array  # [2, 3] in 0…1
    frequency: float  # periods per unit of the surface's coordinates
    phase: Array  # [2]
    photograph: NDArray[np.uint8] | None

    def __call__(self, u: Array, v: Array) -> Array:
        """Colors [..., 3] in 0…1 at surface coordinates."""
        if self.photograph is not None:
            return self._sample(self.photograph, u, v)
        t = self.pattern(self.frequency * u + self.phase[0], self.frequency * v + self.phase[1])[..., None]
        return self.colors[0] + t * (self.colors[1] - self.colors[0])

    def _sample(self, photograph: NDArray[np.uint8], u: Array, v: Array) -> Array:
        # three units across the photograph's height; beyond its edges it is mirrored
        height, width = photograph.shape[:2]
        rows = _bounce(v * height / 3 + self.phase[1] * height, 0, height - 1.001)
        columns = _bounce(u * height / 3 + self.phase[0] * width, 0, width - 1.001)
        top, left = rows.astype(int), columns.astype(int)
        down, right = (rows - top)[..., None], (columns - left)[..., None]
        upper = photograph[top, left] * (1 - right) + photograph[top, left + 1] * right
        lower = photograph[top + 1, left] * (1 - right) + photograph[top + 1, left + 1] * right
        return (upper * (1 - down) + lower * down) / 255


def _room_texture(rng: np.random.Generator, photographs: Sequence[NDArray[np.uint8]]) -> _Texture:
    """Muted, so that objects stand out."""
    hue, saturation, value = rng.uniform(), rng.uniform(0, 0.35), rng.uniform(0.55, 1)
    light = _rgb(hue + rng.uniform(-0.12, 0.12), saturation, value)
    return _texture(rng, np.stack([_rgb(hue, saturation, 0.85 * value), light]), photographs, opacity=0.3)


def _thing_texture(rng: np.random.Generator, label: int, photographs: Sequence[NDArray[np.uint8]]) -> _Texture:
    """Vivid, and mostly of a hue that is typical of the class."""
    hue = rng.normal(_HUES[label], 0.05) if rng.uniform() < _TYPICAL else rng.uniform()
    saturation, value = rng.uniform(0.6, 1), rng.uniform(0.6, 1)
    light = _rgb(hue + rng.uniform(-0.06, 0.06), saturation, value)
    return _texture(rng, np.stack([_rgb(hue, saturation, 0.6 * value), light]), photographs, opacity=0.6)


def _texture(
    rng: np.random.Generator, colors: Array, photographs: Sequence[NDArray[np.uint8]], opacity: float
) -> _Texture:
    photograph = photographs[int(rng.integers(len(photographs)))] if photographs and rng.uniform() < 0.4 else None
    if photograph is not None:  # printed on the surface
        photograph = (opacity * photograph + 255 * (1 - opacity) * colors[1]).astype(np.uint8)
    return _Texture(
        pattern=_PATTERNS[rng.integers(len(_PATTERNS))],
        colors=colors,
        frequency=rng.uniform(0.8, 2),
        phase=rng.uniform(size=2),
        photograph=photograph,
    )


def _rgb(hue: float, saturation: float, value: float) -> Array:
    distance = np.abs((np.array([0, 4, 2]) / 6 + hue) % 1 * 6 - 3) - 1  # of the hue from each primary color
    return value * (1 - saturation + saturation * np.clip(distance, 0, 1))


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


# --- the room ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Thing:
    label: int
    radius: float  # meters
    center: Array  # [2], where its center appears at time 0, pixels (x, y)
    distance: float  # meters
    angle: float
    texture: _Texture
    velocity: Array  # [2] pixels per frame
    spin: float  # radians per frame
    sway: Array  # [3]: relative amplitude, frequency in radians per frame, and phase of the distance

    def at(self, time: int, camera: Camera) -> "_Thing":
        """Where it is after some frames: it bounces off the edges of the image, and stays above the floor."""
        amplitude, frequency, phase = self.sway
        distance = self.distance * (1 + amplitude * (np.sin(frequency * time + phase) - np.sin(phase)))
        radius = camera.focal * self.radius / distance
        lowest = min(camera.size[0], camera.cy + camera.focal * camera.height / distance - _REACH * radius)
        center = np.array(
            [
                _bounce(self.center[0] + self.velocity[0] * time, 0, camera.size[1]),
                min(_bounce(self.center[1] + self.velocity[1] * time, 0, camera.size[0]), lowest),
            ]
        )
        return replace(self, center=center, distance=float(distance), angle=self.angle + self.spin * time)


@dataclass(frozen=True, eq=False)
class _Room:
    camera: Camera
    wall_distance: float
    wall: _Texture
    floor: _Texture
    things: tuple[_Thing, ...]
    grain: int  # seed of the sensor's noise


def _furnish(
    rng: np.random.Generator, size: int | tuple[int, int], photographs: Sequence[NDArray[np.uint8]], count: int
) -> _Room:
    H, W = (size, size) if isinstance(size, int) else size
    if min(H, W) < 32:
        raise ValueError(f"size {(H, W)} (H, W) is below 32 pixels, where shapes cannot be told apart")
    focal = float(min(H, W))
    camera = Camera((H, W), focal, W / 2, H * rng.uniform(0.3, 0.5), _CAMERA_HEIGHT)
    room = _Room(
        camera=camera,
        wall_distance=rng.uniform(9, 12),  # behind the farthest object: 2 * 0.6 / 0.18 = 6.7 m, swaying to 8.3
        wall=_room_texture(rng, photographs),
        floor=_room_texture(rng, ()),
        things=tuple(_thing(rng, camera, photographs) for _ in range(count)),
        grain=int(rng.integers(2**31)),
    )
    return replace(room, things=_visible(room))


def _thing(rng: np.random.Generator, camera: Camera, photographs: Sequence[NDArray[np.uint8]]) -> _Thing:
    H, W = camera.size
    radius = rng.uniform(*_RADII)
    diameter = min(H, W) * np.exp(rng.uniform(*np.log(_DIAMETERS)))
    distance = 2 * camera.focal * radius / diameter
    lowest = min(0.95 * H, camera.cy + camera.focal * camera.height / distance - _REACH * diameter / 2)
    center = np.array([rng.uniform(0.1, 0.9) * W, rng.uniform(min(0.15 * H, lowest), lowest)])
    label = int(rng.integers(len(CLASSES)))
    return _Thing(
        label=label,
        radius=radius,
        center=center,
        distance=float(distance),
        angle=rng.uniform(-_TILT, _TILT),
        texture=_thing_texture(rng, label, photographs),
        velocity=rng.uniform(-0.02, 0.02, 2) * min(H, W),
        spin=rng.uniform(-0.08, 0.08),
        sway=np.array([rng.uniform(0, 0.12), rng.uniform(0.1, 0.3), rng.uniform(0, 2 * np.pi)]),
    )


def _visible(room: _Room) -> tuple[_Thing, ...]:
    """The things that remain when the least visible one goes, again and again, until each shows enough of itself."""
    things = room.things
    while things:
        shapes = [_rasterize(thing, room.camera) for thing in things]
        ids = _assign_ids(things, shapes, room.camera.size)
        fractions = [(ids == n).sum() / max(shape.area, 1) for n, shape in enumerate(shapes, 1)]
        worst = int(np.argmin(fractions))
        if fractions[worst] >= MIN_VISIBLE:
            break
        things = things[:worst] + things[worst + 1 :]
    return things


def _far_to_near(things: Sequence[_Thing]) -> list[int]:
    return sorted(range(len(things)), key=lambda n: -things[n].distance)


@dataclass(frozen=True, eq=False)
class _Shape:
    """A thing on the pixel grid: a window of the image, the outline's distance in pixels there, and coordinates in
    radii: `u` and `v` turn with the thing, `down` points down in the image."""

    window: tuple[slice, slice]
    outline: Array
    u: Array
    v: Array
    down: Array
    radius: float  # pixels
    area: int  # pixels inside the outline, those beyond the edges of the image included


def _rasterize(thing: _Thing, camera: Camera) -> _Shape:
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
    return _Shape(window, outline[crop], u[crop], v[crop], down[crop], radius, int((outline <= 0).sum()))


def _assign_ids(things: Sequence[_Thing], shapes: Sequence[_Shape], size: tuple[int, int]) -> NDArray[np.int32]:
    ids = np.zeros(size, np.int32)
    for n in _far_to_near(things):
        ids[shapes[n].window][shapes[n].outline <= 0] = n + 1
    return ids


# --- painting ---------------------------------------------------------------------------------------------------------
def _floor_depth(camera: Camera) -> Array:
    """[H, 1], meters; infinite at and above the horizon."""
    below = np.arange(camera.size[0]) + 0.5 - camera.cy
    return np.where(below > 0, camera.focal * camera.height / np.where(below > 0, below, 1), np.inf)[:, None]


def _paint(room: _Room, time: int) -> Scene:
    camera = room.camera
    things = [thing.at(time, camera) for thing in room.things]
    shapes = [_rasterize(thing, camera) for thing in things]
    depth = np.minimum(_floor_depth(camera), room.wall_distance).repeat(camera.size[1], axis=1)  # [H, W]
    canvas = _paint_room(room)
    for thing in things:
        _cast_shadow(canvas, thing, room)
    for n in _far_to_near(things):
        _paint_thing(canvas, things[n], shapes[n])
        depth[shapes[n].window][shapes[n].outline <= 0] = things[n].distance
    noise = np.random.default_rng([room.grain, time]).normal(0, 2, canvas.shape)  # a sensor's, anew in every frame
    return Scene(
        image=np.clip(255 * canvas + noise, 0, 255).round().astype(np.uint8),
        ids=_assign_ids(things, shapes, camera.size),
        depth=depth.astype(np.float32),
        labels=np.array([thing.label for thing in things], np.int64),
        distances=np.array([thing.distance for thing in things]),
        camera=camera,
    )


def _paint_room(room: _Room) -> Array:
    """The empty room, [H, W, 3] in 0…1."""
    camera = room.camera
    H, W = camera.size
    x = (np.arange(W) + 0.5 - camera.cx) / camera.focal  # [W], direction of the ray
    y = (np.arange(H)[:, None] + 0.5 - camera.cy) / camera.focal  # [H, 1]
    wall_x, wall_y = np.broadcast_arrays(x * room.wall_distance, y * room.wall_distance)
    wall = room.wall(wall_x / 3, wall_y / 3) * (0.85 + 0.3 * y[..., None])
    floor_depth = _floor_depth(camera)
    is_floor = floor_depth[:, 0] < room.wall_distance  # [H]
    near = floor_depth[is_floor]
    floor_x, floor_z = np.broadcast_arrays(x * near, near)
    floor = room.floor(floor_x / 2, floor_z / 2)
    # a pixel far away covers several periods of the pattern: fade to its mean instead of aliasing
    footprint = near**2 / (camera.focal * camera.height) * room.floor.frequency / 2
    mean = room.floor.colors.mean(0)
    wall[is_floor] = mean + (floor - mean) / (1 + 20 * footprint**2)[..., None]
    return wall


def _cast_shadow(canvas: Array, thing: _Thing, room: _Room) -> None:
    """Darken the floor straight below a thing; the higher it hangs, the less."""
    camera = room.camera
    radius = camera.focal * thing.radius / thing.distance
    row = camera.cy + camera.focal * camera.height / thing.distance
    clearance = (row - thing.center[1]) / radius - 1  # radii between the thing and the floor
    x = (np.arange(camera.size[1]) + 0.5 - thing.center[0]) / radius
    y = (np.arange(camera.size[0])[:, None] + 0.5 - row) / (0.3 * radius)
    darkness = np.clip(1.3 - np.hypot(x, y), 0, 1) * 0.5 / (1 + 0.4 * max(clearance, 0))
    is_floor = _floor_depth(camera) < room.wall_distance
    canvas *= 1 - (darkness * is_floor)[..., None]


def _paint_thing(canvas: Array, thing: _Thing, shape: _Shape) -> None:
    light = 1.05 - 0.15 * shape.down  # from above
    rim = np.where(shape.outline > -0.07 * shape.radius, 0.55, 1)
    color = thing.texture(shape.u, shape.v) * (light * rim)[..., None]
    cover = np.clip(0.5 - shape.outline, 0, 1)[..., None]  # of the pixel by the shape
    canvas[shape.window] += cover * (color - canvas[shape.window])


def _bounce(position: Array | float, low: float, high: float) -> Array:
    """Positions on a line folded back into low…high, as by mirrors at both ends."""
    span = high - low
    return high - np.abs((position - low) % (2 * span) - span)
