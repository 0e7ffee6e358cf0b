"""What a step takes at any size: measured with few images, few pixels and few blocks, and continued from there.

Activations and operations are affine in the pixels of an image, in the number of images and in that of equal blocks.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.registry import DefaultScope
from numpy.typing import NDArray
from torch import Tensor

from pe_spatial.backbones.blocks import Attention
from pe_spatial.training.planner.inputs import Size, make_batch
from pe_spatial.training.planner.tracking import follow_step, time_step
from pe_spatial.training.planner.variation import (
    Variation,
    build_model,
    depth_of,
    model_settings,
    prepare_iteration,
    side_unit,
    with_depth,
)

_MEASURED_SIDE = (
    384  # pixels of the longer side of the larger of the images that are measured, if the config's are larger
)
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepModel:
    """What a step of a variation takes at any size.

    Args:
        coefficients: [F, 2], of activations in bytes and of operations, for the features of `_features`.
        blocks: Of the encoder, that are trained.
        unit: Pixels of which the sides of an image become multiples in the encoder.
    """

    coefficients: NDArray[np.float64]
    blocks: int
    unit: int

    def activations(self, images: int, size: Size) -> float:
        """Bytes at the worst moment of a step, beside weights and their gradients."""
        return float(self._at(images, size)[0])

    def operations(self, images: int, size: Size) -> float:
        """Multiplications and additions of a forward and a backward pass."""
        return float(self._at(images, size)[1])

    def _at(self, images: int, size: Size) -> NDArray[np.float64]:
        height, width = (-(-side // self.unit) * self.unit for side in size)
        return np.maximum(_features(images, height * width, self.blocks) @ self.coefficients, 0)


def _features(images: int, pixels: int, blocks: int) -> NDArray[np.float64]:
    """A constant, for images and pixels alone and together, for all pixels of each block, and for each block."""
    area = pixels / 1e6
    return np.array([1, images, area, images * area, images * area * blocks, blocks])


def fit_steps(points: list[tuple[int, int, int]], measured: list[tuple[float, float]]) -> NDArray[np.float64]:
    """Coefficients [F, 2] from (images, pixels, blocks) and what was measured there.

    One and two images at two sizes are met exactly. Coefficients may be negative: what a detector holds grows faster
    than its pixels while its proposals grow in number, and a fit without negative ones misses by a tenth (measured).
    Where all points have equally many blocks, what belongs to blocks cannot be told apart, and is none.
    """
    features = np.stack([_features(*point) for point in points])
    if len({blocks for *_, blocks in points}) == 1:
        features[:, 4:] = 0
    return np.linalg.lstsq(features, np.array(measured), rcond=None)[0]


def small_sizes(size: Size, unit: int) -> tuple[Size, Size]:
    """Two sizes of about the same shape in multiples of a unit: half of the sides, the least of a plan, and all."""
    factor = min(1, _MEASURED_SIDE / max(size))
    smaller, larger = (tuple(max(round(side * f / unit), 1) * unit for side in size) for f in (factor / 2, factor))
    if smaller == larger:
        larger = tuple(side + unit for side in smaller)
    return smaller, larger  # type: ignore[return-value]


def model_steps(config: Any, variation: Variation, size: Size, device: torch.device, on_cuda: bool) -> StepModel:
    """Measure small steps of a variation of a config.

    Args:
        config: A loaded config.
        variation: How it is trained.
        size: (H, W) of its images, whose shape the small ones have.
        device: That measures.
        on_cuda: Whether the plan is one for a GPU.
    """
    settings = model_settings(config, variation)
    depth = depth_of(settings)
    smaller, larger = small_sizes(size, side_unit(settings, small=True))
    points: list[tuple[int, int, int]] = []
    measured = []
    for blocks in dict.fromkeys(depth.small):
        with _quiet(config, on_cuda):
            model = build_model(with_depth(settings, blocks), "cpu").to(device)
            prepare_iteration(config, model)
            whole = [(1, smaller), (1, larger), (2, smaller), (2, larger)]
            for images, side in whole if blocks == depth.small[0] else whole[:2]:
                cost = follow_step(model, partial(_loss, model, config, variation, images, side))
                points.append((images, side[0] * side[1], blocks))
                measured.append((cost.activations, cost.operations))
    return StepModel(fit_steps(points, measured), depth.whole, side_unit(settings))


def operations_per_second(config: Any, variation: Variation, size: Size, device: torch.device) -> float:
    """How fast a device computes a small step of a variation."""
    settings = model_settings(config, variation)
    _, side = small_sizes(size, side_unit(settings, small=True))
    with _quiet(config, on_cuda=False):
        model = build_model(with_depth(settings, depth_of(settings).small[0]), "cpu").to(device)
        prepare_iteration(config, model)
        step = partial(_loss, model, config, variation, 1, side)
        return follow_step(model, step).operations / time_step(model, step)


def _loss(model: Any, config: Any, variation: Variation, images: int, size: Size) -> Tensor:
    device = next(model.parameters()).device
    dtype = _DTYPES[variation.precision]
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        data = model.data_preprocessor(make_batch(config, images, size), True)
        return model.parse_losses(model(**data, mode="loss"))[0]


@contextmanager
def _quiet(config: Any, on_cuda: bool) -> Iterator[None]:
    """In the block, models are built in the scope of a config, and random numbers are not those of the run."""
    python, numbers = random.getstate(), np.random.get_state()
    copies, Attention.copies_on_cpu = Attention.copies_on_cpu, not on_cuda
    try:
        with torch.random.fork_rng(), DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")):
            torch.manual_seed(0)
            yield
    finally:
        Attention.copies_on_cpu = copies
        random.setstate(python)
        np.random.set_state(numbers)
