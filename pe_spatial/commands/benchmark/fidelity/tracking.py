"""Label propagation against DINO's script, and J and F against DAVIS's evaluation."""

from pathlib import Path

import numpy as np
import torch

from pe_spatial.commands.benchmark.fidelity.rule import Difference, Golden, largest_difference
from pe_spatial.tracking.metrics import contour_accuracy, region_similarity
from pe_spatial.tracking.propagation import Propagation, propagate, unit

# the frames before the present one that are looked at besides the first, and how
_SETTINGS = {
    "dino_default": (7, Propagation()),
    "small": (3, Propagation(radius=4)),
    "no_neighborhood": (2, Propagation(radius=None, topk=10)),
}


def compare_propagation(folder: Path) -> list[Difference]:
    """Soft labels of seven frames for three settings."""
    golden = Golden(folder / "label_propagation.npz")
    features = unit(torch.from_numpy(golden["features"]).permute(0, 2, 3, 1))
    pairs = []
    for name, (recent, how) in _SETTINGS.items():
        soft = [torch.from_numpy(golden["first_seg"])[0].permute(1, 2, 0)]
        for frame in range(1, len(features)):
            context = [0, *range(max(1, frame - recent), frame)]
            labels = torch.stack([soft[index] for index in context], dim=2)
            soft.append(propagate(features[frame], features[context].permute(1, 2, 0, 3), labels, how))
        pairs.append((torch.stack(soft[1:]).permute(0, 3, 1, 2), golden[name]))
    return [largest_difference("label propagation: soft labels, three settings", pairs, 1e-5)]


def compare_davis(folder: Path) -> list[Difference]:
    """J and F of frames, two of them empty."""
    golden = Golden(folder / "davis_metric.npz")
    width = golden["shape"][2]
    truths, found = (np.unpackbits(golden[key], axis=-1)[..., :width].astype(bool) for key in ("gt", "pred"))
    lines = []
    for name, measure in (("J", region_similarity), ("F", contour_accuracy)):
        ours = np.array([measure(prediction, truth) for prediction, truth in zip(found, truths, strict=True)])
        lines.append(largest_difference(f"DAVIS: {name}", [(ours, golden[name])], 1e-6))
    return lines
