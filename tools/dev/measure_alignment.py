"""Measure what each loss of spatial alignment does on synthetic scenes: a table over seeds.

    pe-spatial demo --output demo/data --images 720 --image-size 128 --videos 12 --frames 16 --video-size 128 192
    python tools/dev/measure_alignment.py demo/data demo/effect --seeds 3

A small encoder is trained on whole pictures (tools/dev/make_demo_encoder.py) and then, for every seed, aligned with the
semantic loss alone, the locality loss alone and both, all else equal (configs/demo/alignment_tiny_shapes.yaml). The
seed decides the order of the images, their augmentation and what is hidden. Frozen, each is judged by

    J&F    label propagation through synthetic videos, without training (tracking)
    mIoU   a linear probe: logistic regression from single tokens to wall, floor, disc, box, triangle
    match  whether features keep their meaning between frames: the share of tokens of later frames whose nearest token
           anywhere in the first frame lies on the same object, mean over objects

The encoder before is judged at its last layer and at the layer that the semantic teacher reads. OUT holds every
encoder, `results.json` and `table.md`. Interrupted, the same command goes on.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import make_demo_encoder
import torch
from make_demo_encoder import ENCODER, normalize, read_split
from mmengine.registry import DATASETS, MODELS
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.alignment.hooks import try_student
from pe_spatial.alignment.teachers import block_number
from pe_spatial.backbones import PEBackbone
from pe_spatial.commands.options import CommandParser, add_shared, positive
from pe_spatial.commands.shell import run_module
from pe_spatial.common.files import write_json, write_text
from pe_spatial.common.pictures import read_image
from pe_spatial.demo.scenes import SEMANTIC_CLASSES
from pe_spatial.segmentation.explanation import label_pairs
from pe_spatial.segmentation.metrics import class_areas
from pe_spatial.tracking.datasets import Davis2017
from pe_spatial.tracking.masks import read_mask
from pe_spatial.tracking.model import VideoTracker
from pe_spatial.training.checkpoint import find_last
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import train

CONFIG = "demo/alignment_tiny_shapes"
LOSSES = {"semantic": ("semantic",), "locality": ("locality",), "both": ("semantic", "locality")}
BEFORE = ("before, last layer", "before, the teacher's layer")
MEASURES = ("J&F", "mIoU", "match")
LATER = (3, 6, 9, 12, 15)  # frames that are compared with the first
PROBE_IMAGES = 150
RESUMES = "run the same command again to continue"

Results = dict[str, dict[str, float]]  # row -> measure -> value


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this study."""
    parser.add_argument("data", type=Path, help="folder of `pe-spatial demo`: coco, labels and davis")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="how many")
    parser.add_argument(
        "--pretraining", type=positive, default=800, metavar="N", help="iterations of the first encoder"
    )
    add_shared(parser, "--allow-import", "overrides")


def run(options: argparse.Namespace) -> int:
    """Measure what is missing, and write the table."""
    path = options.out / "results.json"
    results: Results = json.loads(path.read_text()) if path.is_file() else {}
    core = options.out / "core.pt"
    pretraining = [str(options.data), str(core), "--iterations", str(options.pretraining)]
    if status := run_module(make_demo_encoder, make_demo_encoder.__file__, pretraining):
        return status
    teacher = load_config(CONFIG, options.overrides).model.teachers.core
    for row, layer in zip(BEFORE, (-1, block_number(teacher.layer, ENCODER.depth)), strict=True):
        if row not in results:
            note(path, results, row, judge(options.data, core, layer))
    for seed in range(options.seeds):
        for name in LOSSES:
            row = f"after, {name}, seed {seed}"
            if row not in results:
                note(path, results, row, judge(options.data, align(options, seed, name, core), -1))
    text = table(results)
    write_text(options.out / "table.md", text)
    print(text, end="")
    return 0


def note(path: Path, results: Results, row: str, values: dict[str, float]) -> None:
    """Keep and show a row."""
    results[row] = values
    write_json(path, results)
    print(f"{row}: " + ", ".join(f"{measure} {value:.3f}" for measure, value in values.items()), flush=True)


def align(options: argparse.Namespace, seed: int, name: str, core: Path) -> Path:
    """Train a student with some of the losses; returns its weights."""
    work_dir = options.out / f"seed_{seed}" / name
    config = load_config(CONFIG, options.overrides)
    model = config.model
    model.student.weights = model.teachers.core.weights = str(core)
    for loss in ("semantic", "locality"):
        if loss not in LOSSES[name]:
            model.teachers.pop(model[loss].teacher)
            model[loss] = None
    config.train_dataloader.dataset.data_root = str(options.data)
    config.default_hooks.pop("trial")
    config.val_dataloader = config.val_evaluator = config.val_cfg = None
    config.randomness.seed = seed
    config.work_dir, config.experiment_name = str(work_dir), f"{work_dir.parent.name}_{name}"
    if find_last(work_dir) is None or not (work_dir / "student.pt").is_file():
        train(config, "if-any")
    return work_dir / "student.pt"


# --- what an encoder is worth -----------------------------------------------------------------------------------------
def judge(data: Path, weights: Path, layer: int) -> dict[str, float]:
    """The measures of one layer of an encoder."""
    variant = {"base": ENCODER, "ln_post": False, "attn_pool": False, "output_dim": None}
    backbone = PEBackbone(variant, [layer], weights=str(weights), frozen=True).eval()
    miou = probe(backbone, data)
    trial = load_config(CONFIG).default_hooks.trial
    dataset = {**trial.dataset, "data_root": str(data / "davis")}
    tracked = try_student(backbone, trial.model, dataset, trial.metric)
    matched = match_objects(MODELS.build({**trial.model, "backbone": backbone}), DATASETS.build(dataset))
    return {"J&F": tracked["track/J&F"], "mIoU": miou, "match": matched}


def match_objects(tracker: VideoTracker, videos: Davis2017) -> float:
    """Accuracy of the object of the nearest token in the first frame; mean over objects and over later frames."""
    found = []
    for index in range(len(videos)):
        record = videos.get_data_info(index)
        first, first_ids = describe_frame(tracker, record, 0)
        for number in LATER:
            tokens, ids = describe_frame(tracker, record, number)
            found.append(balanced(ids, first_ids[(tokens @ first.T).argmax(1)]))
    return mean(found)


def describe_frame(tracker: VideoTracker, record: dict[str, Any], number: int) -> tuple[Tensor, Tensor]:
    """Unit features [N, C] and objects [N] of the tokens that lie to nine tenths on one object, or on none."""
    maps, _ = tracker.maps([read_image(record["frame_paths"][number]).as_subclass(Tensor)])
    features = maps[0][0]  # [h, w, C]
    masks = F.one_hot(read_mask(record["annotation_paths"][number]).long()).movedim(-1, 0).float()  # [objects, H, W]
    share, ids = F.adaptive_avg_pool2d(masks, features.shape[:2]).flatten(1).max(dim=0)
    return features.flatten(0, 1)[share > 0.9], ids[share > 0.9]


def balanced(true: Tensor, told: Tensor) -> float:
    """Accuracy, mean over the objects that there are."""
    return mean(float((told[true == number] == number).float().mean()) for number in true.unique())


def probe(backbone: PEBackbone, data: Path) -> float:
    """mIoU of a linear classifier of single tokens, at the resolution of the labels of the held-out images."""
    tokens, labels = describe(backbone, data, "train", PROBE_IMAGES)
    center, spread = tokens.mean(dim=(0, 2, 3), keepdim=True), tokens.std(dim=(0, 2, 3), keepdim=True)
    shares = F.one_hot(labels, len(SEMANTIC_CLASSES)).movedim(-1, 1).float()  # [M, classes, H, W]
    shares = F.adaptive_avg_pool2d(shares, tokens.shape[2:])
    classifier = fit((tokens - center) / spread, shares)
    tokens, labels = describe(backbone, data, "val", None)
    with torch.no_grad():
        logits = F.interpolate(classifier((tokens - center) / spread), labels.shape[1:], mode="bilinear")
    pairs = label_pairs(logits.argmax(1), labels, len(SEMANTIC_CLASSES))
    correct, predicted, labeled = class_areas(pairs, len(SEMANTIC_CLASSES))
    return float((correct / (predicted + labeled - correct).clamp_min(1)).mean())


@torch.no_grad()
def describe(backbone: PEBackbone, data: Path, split: str, limit: int | None) -> tuple[Tensor, Tensor]:
    """Maps [M, C, h, w] and class indices [M, H, W] of the first images of a split."""
    pictures, labels = read_split(data, split, limit)
    return torch.cat([backbone(normalize(picture[None]))[0] for picture in pictures]), labels


def fit(tokens: Tensor, shares: Tensor) -> torch.nn.Conv2d:
    """Logistic regression of the shares [M, classes, h, w] of a token's pixels on its features [M, C, h, w]."""
    classifier = torch.nn.Conv2d(tokens.shape[1], shares.shape[1], 1)
    torch.nn.init.zeros_(classifier.weight)
    torch.nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(classifier(tokens), shares) + 1e-4 * classifier.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return classifier


def table(results: Results) -> str:
    """The encoder before, and mean and standard deviation over seeds after alignment, as Markdown."""
    lines = ["| encoder | " + " | ".join(MEASURES) + " |", "|---|" + "---|" * len(MEASURES)]
    for row in BEFORE:
        lines.append(f"| {row} | " + " | ".join(f"{results[row][measure]:.3f}" for measure in MEASURES) + " |")
    for name in LOSSES:
        runs = [values for row, values in results.items() if row.startswith(f"after, {name}, ")]
        cells = []
        for measure in MEASURES:
            values, before = [run[measure] for run in runs], results[BEFORE[0]][measure]
            better = sum(value > before for value in values)
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.3f}{spread} ({mean(values) - before:+.3f}, {better} of {len(values)} better)")
        lines.append(f"| after, {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], __file__))
