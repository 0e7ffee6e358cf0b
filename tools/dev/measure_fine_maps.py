"""Boundary F and mIoU of a linear probe on the maps of an encoder, by the upsampling of the maps.

    python tools/dev/measure_fine_maps.py --data coco --weights vit_s14.safetensors --upsampler upsampler.safetensors
    python tools/dev/measure_fine_maps.py --data coco --encoder color --strides

The data are a folder with train2017, val2017 and annotations. The 13 classes are the background and COCO's 12
supercategories; crowds are ignored. Pictures are squeezed to 448 x 448. The probe (batch norm and a linear layer) is
trained on the tokens as they are, against the shares of the classes in each; every upsampling meets the same probes, so
that nothing but the maps differs. Scores are enlarged bilinearly to the size of the label map.

    mIoU         over all classes
    F            mean boundary F (DAVIS's) of the classes other than the background in the label map of a picture
    F, found     the same of those that bilinear enlargement finds with an IoU of at least 0.5
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.registry import MODELS
from pycocotools.coco import COCO
from torch import Tensor, nn
from torch.nn import functional as F

from pe_spatial.backbones import RawColor
from pe_spatial.backbones.fine_maps import build_upsampler
from pe_spatial.backbones.named import named_encoder
from pe_spatial.commands.options import CommandParser, positive
from pe_spatial.commands.shell import run_module
from pe_spatial.common.pictures import read_image
from pe_spatial.tracking.metrics import contour_accuracy

CLASSES, SIDE, IGNORED = 13, 448, 255
STEPS, TOKENS = 300, 4096
COLOR, PATCH, GRAY = "color", 14, (127.5, 127.5, 127.5)


class Example(NamedTuple):
    """A picture [1, 3, H, W] as the encoder sees it, its map [1, C, h, w], and its label map uint8 [H', W']."""

    picture: Tensor
    tokens: Tensor
    labels: Tensor


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this study."""
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of COCO")
    add("--encoder", default="vit_small_patch14_dinov2", help=f"name of the encoder; {COLOR}: the colors of the pixels")
    add("--weights", help="file of the encoder's weights, or 'none' for random ones")
    add("--strides", type=positive, nargs="*", default=[7, 2], metavar="S", help="of joint bilateral upsampling")
    add("--upsampler", help="file of a learned upsampler")
    add("--learned-stride", type=positive, default=2, metavar="S", help="its stride")
    add("--seeds", type=positive, default=3, metavar="N", help="how many probes")
    add("--limit", type=positive, default=None, metavar="N", help="pictures of each part")


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    backbone = encoder_of(options.encoder, options.weights)
    examples = {
        part: list(read_part(backbone, options.data, f"{part}2017", options.limit)) for part in ("train", "val")
    }
    probes = [train_probe(examples["train"], seed) for seed in range(options.seeds)]
    rows: dict[str, str | Mapping[str, Any]] = {"bilinear": "bilinear"}
    for stride in options.strides:
        rows[f"joint bilateral, stride {stride}"] = {"type": "joint_bilateral", "stride": stride}
    if options.upsampler:
        rows["learned"] = {"type": "learned", "stride": options.learned_stride, "weights": options.upsampler}
    print(f"{'upsampling':26s}  {'mIoU':19s}  {'F':19s}  F, found")
    known = None
    for name, settings in rows.items():
        results = judge(backbone, examples["val"], probes, settings, known)
        known = known or [each.found for each in results]
        columns = (spread([getattr(each, key) for each in results]) for key in ("miou", "f", "f_found"))
        print(f"{name:26s}  {'  '.join(columns)}", flush=True)
    return 0


def encoder_of(name: str, weights: str | None) -> Any:
    """The frozen encoder of a name; random ones have the weights of seed 0."""
    torch.manual_seed(0)
    if name == COLOR:
        return RawColor(PATCH)
    return MODELS.build({**named_encoder(name, weights), "norm": True, "frozen": True}).eval()


def spread(values: list[float]) -> str:
    """Mean, least and greatest."""
    return f"{mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


@torch.no_grad()
def read_part(backbone: Any, data: Path, part: str, limit: int | None, side: int = SIDE) -> Iterator[Example]:
    """The examples of a part of COCO, squeezed to squares."""
    coco = COCO(data / "annotations" / f"instances_{part}.json")
    names = list(dict.fromkeys(category["supercategory"] for category in coco.dataset["categories"]))
    classes = {category["id"]: 1 + names.index(category["supercategory"]) for category in coco.dataset["categories"]}
    offset, scale = (torch.tensor(getattr(backbone, key, GRAY)).view(3, 1, 1) for key in ("mean", "std"))
    for number in sorted(coco.imgs)[:limit]:
        image = read_image(data / part / coco.imgs[number]["file_name"]).float()[None]
        squeezed = F.interpolate(image, (side, side), mode="bilinear", antialias=True)
        picture = (squeezed - offset) / scale
        labels = np.zeros(image.shape[-2:], np.uint8)
        for entry in sorted(coco.imgToAnns[number], key=lambda entry: (not entry["iscrowd"], -entry["area"])):
            labels[coco.annToMask(entry) > 0] = IGNORED if entry["iscrowd"] else classes[entry["category_id"]]
        yield Example(picture, backbone(picture)[0], torch.from_numpy(labels))


def shares(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """The shares of the classes in the cells of a grid, [h w, K]."""
    each = F.one_hot(labels.long().clamp(max=CLASSES - 1), CLASSES).permute(2, 0, 1) * (labels != IGNORED)
    return F.adaptive_avg_pool2d(each.float(), grid).flatten(1).T


def train_probe(examples: list[Example], seed: int, batch: int = TOKENS) -> nn.Module:
    """Batch norm and a linear classifier of tokens, trained on batches of them."""
    tokens = torch.cat([each.tokens[0].flatten(1).T for each in examples])
    grid = (examples[0].tokens.shape[-2], examples[0].tokens.shape[-1])
    targets = torch.cat([shares(each.labels, grid) for each in examples])
    torch.manual_seed(seed)
    probe = nn.Sequential(nn.BatchNorm1d(tokens.shape[1]), nn.Linear(tokens.shape[1], CLASSES))
    optimizer = torch.optim.AdamW(probe.parameters(), 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(tokens), (batch,))
        loss = -(targets[chosen] * probe(tokens[chosen]).log_softmax(1)).sum() / targets[chosen].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


class Result(NamedTuple):
    """What one probe reaches, and which (picture, class) it finds."""

    miou: float
    f: float
    f_found: float
    found: set[tuple[int, int]]


@torch.no_grad()
def judge(
    backbone: Any,
    examples: list[Example],
    probes: list[nn.Module],
    settings: str | Mapping[str, Any],
    known: list[set[tuple[int, int]]] | None = None,
    contours: bool = True,
) -> list[Result]:
    """Judge probes on upsampled maps.

    Args:
        backbone: Of the maps.
        examples: To judge on.
        probes: Each gives a result.
        settings: Of the upsampling.
        known: For each probe, the (picture, class) of `f_found`; None takes those that it finds here.
        contours: Whether boundaries are judged, which takes longest; both F are NaN otherwise.
    """
    upsampler = build_upsampler(settings, backbone)
    areas = torch.zeros(len(probes), 2, CLASSES)
    lines: list[dict[tuple[int, int], float]] = [{} for _ in probes]
    found: list[set[tuple[int, int]]] = [set() for _ in probes]
    for place, (picture, tokens, labels) in enumerate(examples):
        features = (tokens if upsampler is None else upsampler(picture, [tokens])[0])[0]
        valid = labels != IGNORED
        for number, probe in enumerate(probes):
            scores = probe(features.flatten(1).T).T.unflatten(1, features.shape[1:])
            predicted = F.interpolate(scores[None], labels.shape, mode="bilinear")[0].argmax(0)
            for label in range(CLASSES):
                ours, theirs = (predicted == label) & valid, labels == label
                both, either = int((ours & theirs).sum()), int((ours | theirs).sum())
                areas[number, :, label] += torch.tensor([both, either])
                if contours and label and theirs.any():
                    lines[number][place, label] = contour_accuracy(ours.numpy(), theirs.numpy())
                    if both >= either / 2:
                        found[number].add((place, label))
    results = []
    for number, values in enumerate(lines):
        chosen = found[number] if known is None else known[number]
        iou = areas[number, 0] / areas[number, 1].clamp(min=1)
        f_found = mean(values[key] for key in chosen) if chosen else float("nan")
        f = mean(values.values()) if values else float("nan")
        results.append(Result(float(iou.mean()), f, f_found, found[number]))
    return results


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], __file__))
