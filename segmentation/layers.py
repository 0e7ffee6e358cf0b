"""The mIoU of a segmentation probe on every layer of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmengine.config import Config

from pe_spatial.engine.layer_probes import probe_layers

METRIC = "seg/mIoU"
HIGHER_IS_BETTER = True


def evaluate_layers(
    config: Config, layers: Sequence[int], device: str, advance: Callable[[str], None] = lambda text: None
) -> dict[int, dict[str, float]]:
    """Train the config's head on every layer of its frozen encoder and score it; see `probe_layers`."""
    return probe_layers(config, layers, device, advance)
