"""Synthetic scenes with exact boxes, instance masks, class labels, metric depth and, in videos, motion.

A pinhole camera looks horizontally into a room: a floor, a far wall, and textured discs, boxes and triangles that face
the camera at known distances. Everything is computed from that geometry:

    an object of radius R meters at (X, Y, Z) appears at (cx + f·X/Z, cy + f·Y/Z) with a radius of f·R/Z pixels
    the floor, h meters below the camera, appears in row v at the depth f·h / (v - cy), as far as the wall

X points right, Y down, Z forward; depth is Z. Pixel (row i, column j) has its center at (j + 0.5, i + 0.5); it belongs
to the nearest object whose outline contains that center. A scene is a pure function of its arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from pe_spatial.data.transforms import boxes_of_masks
from pe_spatial.demo.room import (
    CLASSES,
    Camera,
    Room,
    Shape,
    Thing,
    assign_ids,
    far_to_near,
    floor_depth,
    furnish,
    rasterize,
)
from pe_spatial.demo.textures import Array

SEMANTIC_CLASSES = ("wall", "floor", *CLASSES)


@dataclass(frozen=True, eq=False)
class Scene:
    """One synthetic picture and its ground truth. Objects are the rows 0…N-1 of `labels` and `distances`."""

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
        return boxes_of_masks(torch.from_numpy(self.masks)).numpy()

    @cached_property
    def semantic(self) -> NDArray[np.uint8]:
        """[H, W], rows of SEMANTIC_CLASSES."""
        of_object = len(SEMANTIC_CLASSES) - len(CLASSES) + self.labels
        is_floor = floor_depth(self.camera) <= self.depth * (1 + 1e-5)  # depth is rounded to float32
        return np.where(self.ids > 0, np.append(0, of_object)[self.ids], is_floor).astype(np.uint8)


def draw_scene(
    seed: int | Sequence[int],
    size: int | tuple[int, int] = 128,
    photographs: Sequence[NDArray[np.uint8]] = (),
    objects: int | None = None,
    diameters: tuple[float, float] | None = None,
) -> Scene:
    """One scene; objects that others hide are left out.

    Args:
        seed: Equal seeds give equal scenes.
        size: Height and width in pixels, or one number for both; 32 or more.
        photographs: RGB arrays [H, W, 3] to cut textures from (see `load_photographs`); two surfaces in five use one.
        objects: How many are placed; None draws one to five.
        diameters: Of the objects in pixels, smallest and largest; None: from a sixth to half of the shorter side.
    """
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 6)) if objects is None else objects
    return paint(furnish(rng, size, photographs, count, diameters), time=0)


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
    room = furnish(rng, size, photographs, count=int(rng.integers(2, 5)))
    return [paint(room, time) for time in range(frames)]


# --- painting ---------------------------------------------------------------------------------------------------------
def paint(room: Room, time: int) -> Scene:
    """The scene that a room shows after some frames."""
    camera = room.camera
    things = [thing.at(time, camera) for thing in room.things]
    shapes = [rasterize(thing, camera) for thing in things]
    depth = np.minimum(floor_depth(camera), room.wall_distance).repeat(camera.size[1], axis=1)  # [H, W]
    canvas = _paint_room(room)
    for thing in things:
        _cast_shadow(canvas, thing, room)
    for n in far_to_near(things):
        _paint_thing(canvas, things[n], shapes[n])
        depth[shapes[n].window][shapes[n].outline <= 0] = things[n].distance
    noise = np.random.default_rng([room.grain, time]).normal(0, 2, canvas.shape)  # a sensor's, anew in every frame
    return Scene(
        image=np.clip(255 * canvas + noise, 0, 255).round().astype(np.uint8),
        ids=assign_ids(things, shapes, camera.size),
        depth=depth.astype(np.float32),
        labels=np.array([thing.label for thing in things], np.int64),
        distances=np.array([thing.distance for thing in things]),
        camera=camera,
    )


def _paint_room(room: Room) -> Array:
    """The empty room, [H, W, 3] in 0…1."""
    camera = room.camera
    H, W = camera.size
    x = (np.arange(W) + 0.5 - camera.cx) / camera.focal  # [W], direction of the ray
    y = (np.arange(H)[:, None] + 0.5 - camera.cy) / camera.focal  # [H, 1]
    wall_x, wall_y = np.broadcast_arrays(x * room.wall_distance, y * room.wall_distance)
    wall = room.wall(wall_x / 3, wall_y / 3) * (0.85 + 0.3 * y[..., None])
    distance = floor_depth(camera)
    is_floor = distance[:, 0] < room.wall_distance  # [H]
    near = distance[is_floor]
    floor_x, floor_z = np.broadcast_arrays(x * near, near)
    floor = room.floor(floor_x / 2, floor_z / 2)
    # a pixel far away covers several periods of the pattern: fade to its mean instead of aliasing
    footprint = near**2 / (camera.focal * camera.height) * room.floor.frequency / 2
    mean = room.floor.colors.mean(0)
    wall[is_floor] = mean + (floor - mean) / (1 + 20 * footprint**2)[..., None]
    return wall


def _cast_shadow(canvas: Array, thing: Thing, room: Room) -> None:
    """Darken the floor straight below a thing; the higher it hangs, the less."""
    camera = room.camera
    radius = camera.focal * thing.radius / thing.distance
    row = camera.cy + camera.focal * camera.height / thing.distance
    clearance = (row - thing.center[1]) / radius - 1  # radii between the thing and the floor
    x = (np.arange(camera.size[1]) + 0.5 - thing.center[0]) / radius
    y = (np.arange(camera.size[0])[:, None] + 0.5 - row) / (0.3 * radius)
    darkness = np.clip(1.3 - np.hypot(x, y), 0, 1) * 0.5 / (1 + 0.4 * max(clearance, 0))
    is_floor = floor_depth(camera) < room.wall_distance
    canvas *= 1 - (darkness * is_floor)[..., None]


def _paint_thing(canvas: Array, thing: Thing, shape: Shape) -> None:
    light = 1.05 - 0.15 * shape.down  # from above
    rim = np.where(shape.outline > -0.07 * shape.radius, 0.55, 1)
    color = thing.texture(shape.u, shape.v) * (light * rim)[..., None]
    cover = np.clip(0.5 - shape.outline, 0, 1)[..., None]  # of the pixel by the shape
    canvas[shape.window] += cover * (color - canvas[shape.window])
