"""Mask R-CNN against the official detector on Detectron2.

The reference numbers were made with weights drawn by the rule for every key but those with "anchor" in their name: the
two tensors of `anchor_deltas` kept the values that they were initialized with (normal, 0.01). Those weights were
recovered from the reference's proposals (they solve a linear system of full rank, and continue the generator of seed 0)
and are in `maskrcnn_coco_anchor_deltas.npz`.
"""

from pathlib import Path

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from torch import Tensor

from pe_spatial.commands.benchmark.fidelity.rule import (
    ENCODER,
    Difference,
    Golden,
    draw_for,
    largest_difference,
    picture,
    scale,
    unequal,
)
from pe_spatial.common.reading import read_json
from pe_spatial.data import decode_masks, mask_areas
from pe_spatial.detection.conversion import from_detectron2
from pe_spatial.detection.mask_rcnn import MaskRCNN

_LEVELS = {"p2_every8": 8, "p3_every4": 4, "p4_every2": 2, "p5": 1, "p6": 1}
_SIZE, _REPORTED = (200, 256), (400, 512)


def official_weights(folder: Path) -> dict[str, Tensor]:
    """The state dict of the official detector."""
    keys = read_json(folder / "maskrcnn_coco_keys.json", {})
    weights = {key: scale(key, draw_for(key, shape)) for key, shape in keys.items()}
    deltas = Golden(folder / "maskrcnn_coco_anchor_deltas.npz")
    for name in ("weight", "bias"):
        weights[f"proposal_generator.rpn_head.anchor_deltas.{name}"] = torch.from_numpy(deltas[name])
    return weights


def build_detector(folder: Path) -> MaskRCNN:
    """Our detector with the official weights."""
    backbone = {"type": "PEBackbone", "variant": ENCODER, "window": 8, "global_blocks": (1, 3)}
    statistics = {"mean": [127.0] * 3, "std": [127.0] * 3}
    model = MaskRCNN(
        num_classes=80,
        backbone={**backbone, "rope": "interpolate", "pos_embed": "tile"},
        neck={"type": "SimpleFeaturePyramid"},
        roi_heads={"score_threshold": 0.0},
        data_preprocessor={"type": "DensePreprocessor", **statistics, "pad_to": (256, 256)},
    )
    model.load_state_dict(from_detectron2(official_weights(folder))[0], strict=True)
    return model.eval()


def compare_mask_rcnn(folder: Path) -> list[Difference]:
    """Pyramid, proposals and detections of one picture."""
    golden, model = Golden(folder / "maskrcnn_coco.npz"), build_detector(folder)
    sample = BaseDataElement(metainfo={"img_shape": _SIZE, "ori_shape": _REPORTED})
    data = model.data_preprocessor({"inputs": [picture(*_SIZE)], "data_samples": [sample]})
    features = model(data["inputs"], mode="tensor")
    boxes, logits = model.rpn.predict(features, [_SIZE])[0]
    # the model runs once more from the start: what a user calls is what is compared
    found = model(**data, mode="predict")[0].pred_instances

    pyramid = [
        (level[..., ::step, ::step], golden[f"fpn/{key}"])
        for level, (key, step) in zip(features, _LEVELS.items(), strict=True)
    ]
    masks = np.unpackbits(golden["masks_first8_packed"], axis=-1).astype(bool)
    areas = torch.tensor(mask_areas(found.masks))
    return [
        largest_difference("Mask R-CNN: maps of the pyramid", pyramid, 2e-5),
        largest_difference("Mask R-CNN: logits of the proposals", [(logits, golden["proposals/logits"])], 1e-4),
        _sets_of_boxes("Mask R-CNN: boxes of the proposals, as a set", boxes, golden["proposals/boxes"]),
        largest_difference("Mask R-CNN: boxes of the detections", [(found.bboxes, golden["boxes"])], 0.05, "px"),
        largest_difference("Mask R-CNN: scores of the detections", [(found.scores, golden["scores"])], 1e-4),
        unequal("Mask R-CNN: classes of the detections that differ", [(found.labels, golden["classes"])]),
        largest_difference("Mask R-CNN: areas of the masks", [(areas, golden["mask_area"])], 3, "px"),
        unequal("Mask R-CNN: pixels of 8 masks that differ", [(decode_masks(found.masks[:8]), masks)], allowed=5),
    ]


def _sets_of_boxes(what: str, ours: Tensor, theirs: NDArray[np.float32]) -> Difference:
    """Logits closer to each other than rounding may change places, so every box is compared with the nearest one."""
    distance = torch.cdist(ours.double(), torch.from_numpy(theirs).double(), p=torch.inf)
    largest = max(float(distance.min(dim=dim).values.max()) for dim in (0, 1))
    return Difference(what, theirs.size, largest, 0.05, "px")
