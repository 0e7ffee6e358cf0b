"""The share of right matches of every layer of an encoder, under homographies of photographs that need no labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from numpy.typing import NDArray
from torch import Tensor

from pe_spatial.common.errors import ConfigError
from pe_spatial.common.pictures import read_image
from pe_spatial.tracking.correspondence.datasets import Photographs
from pe_spatial.tracking.correspondence.matching import match_errors
from pe_spatial.tracking.layer_sweep import tracker_of_layers

METRIC = "matched"
HIGHER_IS_BETTER = True
UNIT = "0 to 1"


@torch.no_grad()
def evaluate_layers(
    config: Config, layers: Sequence[int], device: str, advance: Callable[[str], None] = lambda text: None
) -> dict[int, dict[str, float]]:
    """Match the photographs of a config's dataset with views of themselves.

    Args:
        config: With a `VideoTracker` on a backbone that has `layers`, and a `test_dataloader` of `Photographs`.
        layers: Of the encoder.
        device: Where to run.
        advance: Called after every photograph with its name.

    Returns:
        For each layer the mean over photographs and views of: the share of tokens whose most similar token in the view
        lies within one patch of the true place (`matched`), and the median distance in patches (`median error`).

    Raises:
        ConfigError: No such model or dataset.
    """
    tracker = tracker_of_layers(config, layers, device)
    dataset = DATASETS.build(config.test_dataloader.dataset)
    if not isinstance(dataset, Photographs):
        raise ConfigError(f"test_dataloader.dataset is {type(dataset).__name__}; matching takes Photographs")
    homographies = dataset.homographies
    errors: list[list[NDArray[np.float64]]] = [[] for _ in layers]
    strides = [int(stride) for stride in tracker.backbone.strides]
    for index in range(len(dataset)):
        record = dataset.get_data_info(index)
        picture = homographies.square(_pixels(record))
        first, _ = tracker.maps([_tensor(picture)])
        for seed in range(homographies.number):
            view, matrix = homographies.view(picture, seed)
            second, _ = tracker.maps([_tensor(view)])
            for found, a, b, stride in zip(errors, first, second, strides, strict=True):
                found.append(match_errors(a[0].float(), b[0].float(), matrix, stride))
        advance(str(record["img_path"]))
    return {layer: _summary(found, stride) for layer, found, stride in zip(layers, errors, strides, strict=True)}


def _pixels(record: Mapping[str, Any]) -> NDArray[np.uint8]:
    image = read_image(record["img_path"], archive=record.get("archive"))
    return np.asarray(image.permute(1, 2, 0))


def _tensor(picture: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)


def _summary(errors: Sequence[NDArray[np.float64]], stride: int) -> dict[str, float]:
    return {
        METRIC: float(np.mean([(found <= stride).mean() for found in errors])),
        "median error": float(np.mean([np.median(found) / stride for found in errors])),
    }
