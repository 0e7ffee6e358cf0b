"""DETA against the official detector of `perception_models`."""

from pathlib import Path

import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor
from torchvision.ops import box_convert

from pe_spatial.commands.benchmark.fidelity.rule import (
    ENCODER,
    Difference,
    Golden,
    draw,
    draw_for,
    largest_difference,
    scale,
    unequal,
)
from pe_spatial.common.reading import read_json
from pe_spatial.detection.deta import DETA
from pe_spatial.detection.deta.conversion import from_authors

SIZES = ((224, 256), (256, 192))  # of the pictures, padded to 256 x 256
_REPORTED = ((400, 457), (512, 384))


def official_weights(folder: Path) -> dict[str, Tensor]:
    """The state dict of the official model, second names of the heads included."""
    shapes = read_json(folder / "deta_keys.json", {})
    aliases = ("transformer.decoder.bbox", "transformer.decoder.class")
    weights = {key: _weight(key, shape) for key, shape in shapes.items() if not key.startswith(aliases)}
    return weights | {key: weights[key.removeprefix("transformer.decoder.")] for key in shapes if key not in weights}


def _weight(key: str, shape: list[int]) -> Tensor:
    x = draw_for(key, shape)
    if key.startswith("bbox_embed") and key.endswith("layers.2.weight"):
        x = x * 0.1
    return scale(key, x)


def pictures() -> Tensor:
    """A batch [2, 3, 256, 256] of noise, padded with zeros."""
    batch = torch.zeros(2, 3, 256, 256)
    for seed, (height, width) in enumerate(SIZES):
        batch[seed, :, :height, :width] = draw(seed, (3, height, width))
    return batch


def build_detector(folder: Path) -> DETA:
    """Our detector with the official weights."""
    model = DETA(
        num_classes=91,
        backbone={
            "type": "PEBackbone",
            "variant": ENCODER,
            "window": 8,
            "global_blocks": (1, 3),
            "rope": 16,  # not the pretraining grid's 8: what the released weights were trained with
            "pos_embed": "tile",
        },
        neck={"type": "DetaPyramid"},
        transformer={"num_queries": 100, "encoder_layers": 2, "decoder_layers": 2, "layer": {"ffn_channels": 128}},
        loss_weights=(1, 1, 1),
    )
    model.load_state_dict(from_authors(official_weights(folder))[0], strict=True)
    return model.eval()


def _samples(folder: Path) -> list[BaseDataElement]:
    """Original sizes and objects; the objects' boxes in pixels of the input, as a dataset gives them."""
    targets = Golden(folder / "deta_targets.npz")
    result = []
    for i, (height, width) in enumerate(SIZES):
        original = targets[f"{i}/orig_size"].tolist()
        sample = BaseDataElement(metainfo={"img_shape": (height, width), "ori_shape": tuple(original)})
        boxes = torch.from_numpy(targets[f"{i}/boxes"]) * torch.tensor([width, height, width, height])
        labels = torch.from_numpy(targets[f"{i}/labels"])
        sample.gt_instances = InstanceData(bboxes=box_convert(boxes, "cxcywh", "xyxy"), labels=labels)
        result.append(sample)
    return result


def compare_deta(folder: Path) -> list[Difference]:
    """Feature maps, what every layer says, detections, and the losses of a training step."""
    golden, model, samples = Golden(folder / "deta.npz"), build_detector(folder), _samples(folder)
    maps = model.neck.pyramid(model.backbone(pictures()))
    said = model(pictures(), samples, mode="tensor")
    layers = (said.encoder, *said.layers)
    prefixes = ("encoder/", "aux0/", "")
    logits = [(x.logits, golden[f"{prefix}pred_logits"]) for x, prefix in zip(layers, prefixes, strict=True)]
    boxes = [(x.boxes, golden[f"{prefix}pred_boxes"]) for x, prefix in zip(layers, prefixes, strict=True)]
    boxes += [
        (said.encoder.references, golden["encoder/anchors"]),
        (said.layers[0].references, golden["init_reference"]),
    ]
    features = [(found, golden[f"features/{level}"]) for level, found in enumerate(maps)]
    return [
        largest_difference("DETA: feature maps", features, 1e-5),
        largest_difference("DETA: logits of the encoder and of both decoder layers", logits, 1e-4),
        largest_difference("DETA: their boxes and the chosen queries, relative to the image", boxes, 1e-5),
        *_detections(model, samples, golden),
        _losses(model(pictures(), samples, mode="loss"), folder / "deta_losses.json"),
    ]


def _detections(model: DETA, samples: list[BaseDataElement], golden: Golden) -> list[Difference]:
    asked = [
        BaseDataElement(metainfo={"img_shape": sample.img_shape, "ori_shape": size})
        for sample, size in zip(samples, _REPORTED, strict=True)
    ]
    found = [sample.pred_instances for sample in model(pictures(), asked, mode="predict")]
    boxes, scores, labels = (
        [(getattr(each, name), golden[f"post{i}/{key}"]) for i, each in enumerate(found)]
        for name, key in (("bboxes", "boxes"), ("scores", "scores"), ("labels", "labels"))
    )
    return [
        largest_difference("DETA: boxes of the detections", boxes, 5e-3, "px"),
        largest_difference("DETA: scores of the detections", scores, 1e-4),
        unequal("DETA: classes of the detections that differ", labels),
    ]


def _losses(found: dict[str, Tensor], path: Path) -> Difference:
    expected = read_json(path, {})
    theirs = {key: value for key, value in expected.items() if key.startswith("loss")}  # the others are for the log
    ours = {key.replace("class", "ce"): value.item() for key, value in found.items()}
    relative = [
        abs(ours[key] - value) / abs(value) if key in ours and len(ours) == len(theirs) else float("inf")
        for key, value in theirs.items()
    ]
    return Difference("DETA: training losses, no two anchors tied in IoU", len(theirs), max(relative), 1e-3, "relative")
