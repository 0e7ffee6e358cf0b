"""Made batches: what a training step receives, of any size, without a file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.registry import DATASETS, TRANSFORMS
from torch import Tensor
from torchvision import tv_tensors

from pe_spatial.common.errors import ConfigError
from pe_spatial.data.polygons import Polygons
from pe_spatial.data.sample import PackSample

Size = tuple[int, int]  # (H, W)

_OBJECTS = 16  # of an image with many
_CLASSES = 16  # at most in one label map
_STEPS_WITH_SIZE = ("size", "target_size")  # options of the transforms that fix the size of what leaves them
_DRAWN = ("HideTokens", "RandomShifts")  # steps that add to a sample what a student needs
_LOOKED_AT = 8  # pictures, where no transform fixes their size


def training_size(config: Any) -> Size:
    """The size (H, W) of the batches of a training.

    It is what the preprocessor pads to, else the size in the last transform of the pipeline that has one, else that of
    the largest of the first pictures.

    Args:
        config: A loaded config.

    Raises:
        ConfigError: There is no training data, or it cannot be opened and nothing else says the size.
    """
    preprocessor = config.model.get("data_preprocessor") or {}
    if preprocessor.get("pad_to"):
        return _pair(preprocessor["pad_to"])
    loader = config.get("train_dataloader")
    if not loader:
        raise ConfigError(
            f"{config.filename or 'the config'} has no train_dataloader; only a training can be planned; give a "
            f"config that trains"
        )
    for step in reversed(loader["dataset"].get("pipeline") or []):
        given = next((step[key] for key in _STEPS_WITH_SIZE if step.get(key)), None)
        if given is not None:
            return _divisible(_pair(given), preprocessor.get("size_divisor", 1))
    dataset = DATASETS.build(loader["dataset"])
    sizes = [dataset[index]["data_samples"].img_shape for index in range(min(len(dataset), _LOOKED_AT))]
    if not sizes:
        raise ConfigError(
            "the training data is empty, and the size of the pictures is not known; set data_preprocessor.pad_to"
        )
    largest = max(height for height, _ in sizes), max(width for _, width in sizes)
    return _divisible(largest, preprocessor.get("size_divisor", 1))


def _pair(size: Any) -> Size:
    height, width = size if isinstance(size, Sequence) and len(size) == 2 else (size, size)
    return int(height), int(width)


def _divisible(size: Size, divisor: int) -> Size:
    return -(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor


def object_count(model: Mapping[str, Any]) -> int:
    """How many objects an image has.

    A trained detector finds so many of them that its mask head works at full load; there are as many objects as that.
    """
    heads = model.get("roi_heads") or {}
    return max(_OBJECTS, int(heads.get("samples", 512) * heads.get("positive_fraction", 0.25))) if heads else _OBJECTS


def make_batch(config: Any, number: int, size: Size) -> dict[str, Any]:
    """A batch of packed samples as the training pipeline of a config ends with; see `pe_spatial.data.sample`.

    Args:
        config: A loaded config; the loaders in its pipeline say which labels the model gets.
        number: Of images.
        size: (H, W) of each.

    Raises:
        ConfigError: The pipeline loads labels that cannot be made.
    """
    generator = torch.Generator().manual_seed(0)
    packed = [PackSample()(_sample(config, size, generator)) for _ in range(number)]
    return {key: [sample[key] for sample in packed] for key in ("inputs", "data_samples")}


def _sample(config: Any, size: Size, generator: torch.Generator) -> dict[str, Any]:
    sample: dict[str, Any] = {
        "img": torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator),
        "img_path": "made for a plan",
        "img_id": 0,
    }
    model = config.model
    classes = model.get("num_classes") or 1
    for step in config.train_dataloader["dataset"].get("pipeline") or []:
        loader = step["type"].rpartition(".")[2]
        if loader == "LoadInstances":
            as_polygons = step.get("mask_format") == "polygon"
            sample |= _objects(
                size, range(classes), object_count(model), step.get("masks", True), as_polygons, generator
            )
        elif loader in ("LoadPanoptic", "LoadInstanceLabels"):
            things = model.get("things") or []
            labels = range(things) if isinstance(things, int) else things
            sample |= {"sem_seg": _label_map(size, classes)}
            if labels:
                sample |= _objects(size, labels, object_count(model), True, False, generator)
        elif loader == "LoadSegmentation":
            sample |= {"sem_seg": _label_map(size, classes)}
        elif loader == "LoadDepthMap":
            nearest, farthest = (model.get("head") or {}).get("depth_range") or (0.5, 10)
            depth = nearest + (farthest - nearest) * torch.rand(1, *size, generator=generator)
            sample |= {"depth": tv_tensors.Mask(depth)}
        elif loader in _DRAWN:
            sample = TRANSFORMS.build(dict(step))(sample)
        elif loader.startswith("Load") and loader != "LoadImage":
            raise ConfigError(f"{loader} loads labels that the planner cannot simulate; start a short training instead")
    return sample


def _objects(
    size: Size, labels: Sequence[int], number: int, masks: bool, as_polygons: bool, generator: torch.Generator
) -> dict[str, Any]:
    """Rectangles of a twentieth to a third of the image, everywhere in it."""
    height, width = size
    scale = torch.tensor([width, height, width, height])
    corner = 0.66 * torch.rand(number, 2, generator=generator)
    extent = 0.05 + 0.28 * torch.rand(number, 2, generator=generator)
    boxes = torch.cat([corner, corner + extent], dim=1) * scale  # [N, 4]
    made: dict[str, Any] = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
        "labels": torch.tensor(list(labels))[torch.arange(number) % len(labels)],
    }
    if masks and as_polygons:
        outlines = [[np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])] for x1, y1, x2, y2 in boxes.double().tolist()]
        made["masks"] = Polygons(outlines, size)
    elif masks:
        made["masks"] = tv_tensors.Mask(_filled(boxes, size))
    return made


def _filled(boxes: Tensor, size: Size) -> Tensor:
    """Masks [N, H, W] of boxes [N, 4]."""
    y, x = (torch.arange(side) for side in size)
    x1, y1, x2, y2 = boxes.T[..., None].long()
    rows, columns = (y >= y1) & (y <= y2), (x >= x1) & (x <= x2)  # [N, H], [N, W]
    return rows[:, :, None] & columns[:, None, :]


def _label_map(size: Size, classes: int) -> tv_tensors.Mask:
    """Vertical stripes of several classes."""
    count = min(classes, _CLASSES, size[1])
    stripes = (torch.arange(size[1]) * count // size[1]).expand(1, *size)
    return tv_tensors.Mask(stripes.contiguous())
