"""Train the small encoder that the alignment demo starts from: a PE-Core in miniature, on the drawn dataset.

    python tools/make_demo_data.py demo/data --images 720 --size 128
    python tools/make_demo_encoder.py demo/data demo/core.pt

Like PE-Core it learns from whole pictures only: attention pooling over all tokens, and then what a caption might say,
"a large disc on the left". Nothing tells it where things end. The file is in the official layout of PE-Core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.backbones import EncoderConfig, VisionTransformer
from pe_spatial.backbones.weights import write_tensor_file
from pe_spatial.data import read_image

CLASSES, COLUMNS, SIZES = 3, 3, 2
LARGE = 0.35  # side of a large object over that of the picture
ENCODER = EncoderConfig(
    name="demo-core",
    patch_size=8,
    width=96,
    depth=6,
    heads=4,
    mlp_ratio=4.0,
    image_size=128,
    cls_token=False,
    ln_post=True,
    attn_pool=True,
    pool_heads=4,
    output_dim=CLASSES * COLUMNS * SIZES,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of tools/make_demo_data.py, with the format coco")
    parser.add_argument("out", type=Path, help="file to write, .pt or .safetensors")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.out.is_file():
        print(f"{options.out} is there already")
        return 0
    started = time.process_time()
    train, held_out = (read_captions(options.data, split) for split in ("train", "val"))
    encoder = pretrain(*train, options.iterations, options.batch_size, options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_tensor_file(encoder.state_dict(), options.out)
    print(
        f"wrote {options.out} after {time.process_time() - started:.0f} s of CPU; held-out statements told right: "
        f"{accuracy(encoder, *held_out):.3f}, always 'no': {1 - float(held_out[1].mean()):.3f}"
    )
    return 0


def read_captions(data: Path, split: str) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [M, 3, H, W] and which of the statements hold for each, [M, statements] of 0 and 1."""
    content = json.loads((data / "annotations" / f"instances_{split}.json").read_text())
    rows = {image["id"]: number for number, image in enumerate(content["images"])}
    labels = {number: row for row, number in enumerate(sorted(item["id"] for item in content["categories"]))}
    holds = np.zeros((len(rows), CLASSES, COLUMNS, SIZES), np.float32)
    for item in content["annotations"]:
        image = content["images"][rows[item["image_id"]]]
        x, _, width, height = item["bbox"]
        column = min(int((x + width / 2) / image["width"] * COLUMNS), COLUMNS - 1)
        large = int((width * height / (image["width"] * image["height"])) ** 0.5 > LARGE)
        holds[rows[item["image_id"]], labels[item["category_id"]], column, large] = 1
    pictures = [read_image(data / "images" / split / image["file_name"]) for image in content["images"]]
    return torch.stack([picture.as_subclass(Tensor) for picture in pictures]), torch.from_numpy(holds).flatten(1)


def pretrain(pictures: Tensor, holds: Tensor, iterations: int, batch_size: int, seed: int) -> VisionTransformer:
    """Train an encoder to tell which statements hold."""
    torch.manual_seed(seed)
    encoder = VisionTransformer(ENCODER)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, iterations, pct_start=0.1)
    for _ in track(range(iterations), description="pretraining"):
        chosen = torch.randint(len(pictures), (batch_size,))
        loss = F.binary_cross_entropy_with_logits(encoder(normalise(pictures[chosen])), holds[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return encoder.eval()


@torch.no_grad()
def accuracy(encoder: VisionTransformer, pictures: Tensor, holds: Tensor) -> float:
    """Share of statements that the encoder judges rightly."""
    logits = torch.cat([encoder(normalise(part)) for part in pictures.split(32)])
    return float(((logits > 0) == holds.bool()).float().mean())


def normalise(pictures: Tensor) -> Tensor:
    """PE's statistics, mean = std = 0.5."""
    return pictures / 127.5 - 1


if __name__ == "__main__":
    sys.exit(main())
