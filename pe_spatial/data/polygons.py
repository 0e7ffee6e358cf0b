"""Masks as polygons, as Detectron2's recipes train on them: the outlines of objects, and how transforms move them.

torchvision's transforms v2 find what moves a tensor by its type. What has no kernel here they would pass by in silence,
so whatever else moves pixels is registered as a refusal.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.errors import ConfigError

Ring = NDArray[np.float64]  # [V, 2], vertices (x, y) in pixels; the last one is joined with the first
Outline = list[Ring]  # the object is all that lies in one of the rings


class Polygons(tv_tensors.TVTensor):
    """The outlines of N objects, in the place of their masks [N, H, W].

    As a tensor it is float32 [N, 4]: the boxes (xyxy) around the outlines; (0, 0, 0, 0) where nothing is left.

    Attributes:
        outlines: Of every object. They are never changed in place.
        canvas_size: (H, W).
    """

    outlines: list[Outline]
    canvas_size: tuple[int, int]

    def __new__(cls, outlines: Sequence[Outline], canvas_size: tuple[int, int]) -> "Polygons":
        """Compute the boxes of `outlines` on a canvas of (H, W)."""
        boxes = torch.tensor([_box(outline) for outline in outlines], dtype=torch.float32).reshape(-1, 4)
        polygons = boxes.as_subclass(cls)
        polygons.outlines, polygons.canvas_size = list(outlines), canvas_size
        return polygons

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: tuple[Any, ...], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Copies (`clone`, `detach`, `to`) keep the outlines; anything else computes with boxes, as plain tensors."""
        result = super().__torch_function__(func, types, args, kwargs)
        if isinstance(result, cls) and isinstance(args[0], cls):
            result.__dict__.update(args[0].__dict__)
        return result

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return self._make_repr(rings=[len(outline) for outline in self.outlines], canvas_size=self.canvas_size)

    def select(self, valid: Tensor) -> "Polygons":
        """The objects for which `valid` [N] is true."""
        kept = [outline for outline, is_valid in zip(self.outlines, valid.tolist(), strict=True) if is_valid]
        return Polygons(kept, self.canvas_size)


def _box(outline: Outline) -> list[float]:
    if not outline:
        return [0.0, 0.0, 0.0, 0.0]
    vertices = np.concatenate(outline)
    return [*vertices.min(axis=0).tolist(), *vertices.max(axis=0).tolist()]


# --- kernels ----------------------------------------------------------------------------------------------------------
def _moved(
    polygons: Polygons,
    canvas_size: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    shift: tuple[float, float] = (0.0, 0.0),
) -> Polygons:
    """Every vertex (x, y) times `scale`, plus `shift`."""
    outlines = [[ring * scale + shift for ring in outline] for outline in polygons.outlines]
    return Polygons(outlines, canvas_size)


@F.register_kernel(F.horizontal_flip, Polygons)
def _flip_horizontally(polygons: Polygons) -> Polygons:
    return _moved(polygons, polygons.canvas_size, (-1.0, 1.0), (polygons.canvas_size[1], 0.0))


@F.register_kernel(F.vertical_flip, Polygons)
def _flip_vertically(polygons: Polygons) -> Polygons:
    return _moved(polygons, polygons.canvas_size, (1.0, -1.0), (0.0, polygons.canvas_size[0]))


@F.register_kernel(F.resize, Polygons)
def _resize(polygons: Polygons, size: Any, max_size: int | None = None, **_: Any) -> Polygons:
    # the rule for the new size is torchvision's
    canvas_size = F.resize(_corner(polygons), size=size, max_size=max_size).canvas_size
    (height, width), before = canvas_size, polygons.canvas_size
    return _moved(polygons, canvas_size, (width / before[1], height / before[0]))


@F.register_kernel(F.crop, Polygons)
def _crop(polygons: Polygons, top: int, left: int, height: int, width: int) -> Polygons:
    window = (left, top, left + width, top + height)
    cropped = Polygons([_clip(outline, window) for outline in polygons.outlines], polygons.canvas_size)
    return _moved(cropped, (height, width), shift=(-left, -top))


@F.register_kernel(F.pad, Polygons)
def _pad(polygons: Polygons, padding: Any, padding_mode: str = "constant", **_: Any) -> Polygons:
    if padding_mode != "constant" or np.min(padding) < 0:
        raise ConfigError(
            f"padding {padding} with mode {padding_mode!r} would repeat or cut objects, which polygons cannot show; "
            "pad with 'constant', or set mask_format='bitmask' in LoadInstances"
        )
    corner = F.pad(_corner(polygons), padding)
    left, top = corner[0, :2].tolist()
    return _moved(polygons, corner.canvas_size, shift=(left, top))


def _corner(polygons: Polygons) -> tv_tensors.BoundingBoxes:
    """The upper left corner as a box, to see where torchvision moves it."""
    return tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYXY", canvas_size=polygons.canvas_size)


def _refuse(functional: Callable[..., Any]) -> None:
    @F.register_kernel(functional, Polygons)
    def refusal(polygons: Polygons, *_: Any, **__: Any) -> NoReturn:
        raise ConfigError(
            f"{functional.__name__} cannot move polygons, only flips, resize, crop and pad can; set "
            "mask_format='bitmask' in LoadInstances, or remove the transform"
        )


for _functional in (
    F.affine,
    F.center_crop,
    F.elastic,
    F.five_crop,
    F.perspective,
    F.resized_crop,
    F.rotate,
    F.ten_crop,
):
    _refuse(_functional)


# --- clipping ---------------------------------------------------------------------------------------------------------
def _clip(outline: Outline, window: tuple[float, float, float, float]) -> Outline:
    """The parts of the rings inside a window (xyxy) that have an area, as Detectron2 cuts them with shapely.

    Of a ring that crosses itself, shapely's `buffer(0)` may lose a loop, and Detectron2 with it; here every loop stays
    that COCO's rasterizer fills. For all other rings the two are equal.
    """
    outline = [_without_spikes(ring) for ring in outline]
    for axis, bound, sign in ((0, window[0], 1), (1, window[1], 1), (0, window[2], -1), (1, window[3], -1)):
        outline = [part for ring in outline for part in _halve(ring, axis, bound, sign)]
    return [ring for ring in outline if _area(ring) > 0]


def _without_spikes(ring: Ring) -> Ring:
    """A ring without the vertices at which it turns back on its own way: they enclose nothing but widen the box."""
    while len(ring) > 2:
        (x1, y1), (x2, y2) = (ring - np.roll(ring, 1, axis=0)).T, (np.roll(ring, -1, axis=0) - ring).T
        turns_back = (x1 * y2 == x2 * y1) & (x1 * x2 + y1 * y2 <= 0)  # [V], repeated vertices too
        if not turns_back.any():
            break
        ring = np.delete(ring, turns_back.argmax(), axis=0)
    return ring


def _halve(ring: Ring, axis: int, bound: float, sign: int) -> Outline:
    """The parts of a ring on one side of a line: where the coordinate is above `bound` (sign 1) or below it (-1).

    The ring falls apart into chains, from where it enters to where it leaves. Along the line, in and out alternate:
    inside is what lies between the first and the second end of a chain, between the third and the fourth, and so on.
    These pieces of the line join the chains into rings. By the even-odd rule it holds where a ring crosses itself, too.
    """
    depth = sign * (ring[:, axis] - bound)  # [V]
    if (depth >= 0).all():
        return [ring]
    inside = depth > 0
    starts = np.flatnonzero(inside & ~np.roll(inside, 1)).tolist()
    chains = [_chain(ring, depth, axis, bound, start) for start in starts]
    ends = np.array([place for chain in chains for place in (chain[0, 1 - axis], chain[-1, 1 - axis])])
    order = ends.argsort(kind="stable")
    partner = np.empty(len(ends), int)
    partner[order] = order.reshape(-1, 2)[:, ::-1].ravel()
    rings, left = [], set(range(len(chains)))
    while left:
        end, parts = 2 * min(left), []
        while end // 2 in left:
            left.remove(end // 2)
            parts.append(chains[end // 2][:: -1 if end % 2 else 1])
            end = int(partner[end ^ 1])
        rings.append(np.concatenate(parts))
    return rings


def _chain(ring: Ring, depth: NDArray[np.float64], axis: int, bound: float, start: int) -> Ring:
    """The vertices inside from `start` on, between the two points at which the ring crosses the line."""
    count = len(ring)
    rolled, deep = np.roll(ring, -start, axis=0), np.roll(depth, -start)
    stop = int((deep <= 0).argmax())  # the first vertex that is not inside
    crossings = []
    for within, beyond in ((0, count - 1), (stop - 1, stop)):
        share = deep[within] / (deep[within] - deep[beyond])
        crossing = rolled[within] + (rolled[beyond] - rolled[within]) * share
        crossing[axis] = bound
        crossings.append(crossing)
    return np.concatenate([crossings[:1], rolled[:stop], crossings[1:]])


def _area(ring: Ring) -> float:
    x, y = (ring - ring[0]).T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


# --- for what needs pixels --------------------------------------------------------------------------------------------
def require_bitmaps(instances: Mapping[str, Any], name: str | None, user: str) -> Tensor:
    """The masks bool [N, H, W] of the instances of a packed sample.

    Args:
        instances: With `masks`.
        name: Of the image, for the message.
        user: What needs them.

    Raises:
        ConfigError: They are polygons.
    """
    masks = instances["masks"]
    if not isinstance(masks, Tensor):
        raise ConfigError(f"{name}: {user} needs bitmaps, not polygons; set mask_format='bitmask' in LoadInstances")
    return masks
