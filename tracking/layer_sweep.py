"""J&F of every layer of an encoder: each frame passes the encoder once, and each layer has a tracker of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS

from pe_spatial.common.errors import ConfigError
from pe_spatial.tracking.frames import open_frames
from pe_spatial.tracking.label_tracker import LabelTracker
from pe_spatial.tracking.masks import read_mask
from pe_spatial.tracking.metrics import VideoScore, open_score
from pe_spatial.tracking.model import VideoTracker
from pe_spatial.tracking.scores import ScoreTable

METRIC = "J&F"
HIGHER_IS_BETTER = True
UNIT = "0 to 1"


def evaluate_layers(
    config: Config, layers: Sequence[int], device: str, advance: Callable[[str], None] = lambda text: None
) -> dict[int, dict[str, float]]:
    """Track the videos of a config's dataset with every layer.

    Args:
        config: With a `VideoTracker` on a backbone that has `layers`, and a `test_dataloader`.
        layers: Blocks of the encoder.
        device: Where to run.
        advance: Called after every frame with the name of the video.

    Returns:
        For each layer the official global numbers, `METRIC` first.

    Raises:
        ConfigError: No such tracker or dataset.
    """
    tracker = tracker_of_layers(config, layers, device)
    dataset = DATASETS.build(config.test_dataloader.dataset)
    results: dict[int, list[dict[str, Any]]] = {layer: [] for layer in layers}
    for index in range(len(dataset)):
        record = dataset.get_data_info(index)
        for layer, score in zip(layers, _score_video(tracker, record, advance), strict=True):
            results[layer] += score.results()
    return {layer: ScoreTable(objects).totals for layer, objects in results.items()}


def tracker_of_layers(config: Config, layers: Sequence[int], device: str) -> VideoTracker:
    """The tracker of a config, whose `maps` returns one map per layer.

    Raises:
        ConfigError: No tracker on a backbone that has `layers`, or no `test_dataloader`.
    """
    if "layers" not in config.model.get("backbone", {}) or "test_dataloader" not in config:
        raise ConfigError("a sweep over layers needs a model with backbone.layers and a test_dataloader")
    torch.manual_seed(0)
    model = config.model.to_dict()
    model["backbone"]["layers"] = list(layers)
    kind = MODELS.get(model.pop("type"))
    tracker: VideoTracker = type("TrackerOfLayers", (kind,), {"maps_taken": None})(**model).to(device)
    return tracker


def _score_video(tracker: VideoTracker, record: Mapping[str, Any], advance: Callable[[str], None]) -> list[VideoScore]:
    """Scores of one video, one per map of the tracker's backbone."""
    count = len(tracker.backbone.channels)
    own = tracker.labels
    trackers = [LabelTracker(own.propagation, own.decoding, own.memory.recent) for _ in range(count)]
    scores = [open_score(record) for _ in range(count)]
    masks = {number: read_mask(**prompt) for number, prompt in record["prompts"].items()}
    for frame in open_frames(record["frame_paths"]):
        maps, input_size = tracker.maps([frame.image])
        for labels, score, features in zip(trackers, scores, maps, strict=True):
            size = (frame.image.shape[-2], frame.image.shape[-1])
            ids = labels.step(features[0], input_size, size, masks.get(frame.number))
            score.add(frame.number, ids.cpu().numpy(), record["annotation_paths"][frame.number])
        advance(record["video"])
    return scores
