"""Train the small encoder that the alignment demo starts from: a PE-Core in miniature on synthetic scenes.

    pe-spatial demo --output demo/data --images 720 --image-size 128
    python tools/dev/make_demo_encoder.py demo/data demo/core.pt

Like PE-Core it learns from whole pictures only. Attention pooling turns all tokens into one vector, and from that it
tells what a caption might: which share of the left, the middle and the right of the picture is wall, floor, disc, box
and triangle. Nothing tells it where things end. The file is in the official layout of PE-Core.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import resize

from pe_spatial.backbones import EncoderConfig, VisionTransformer
from pe_spatial.commands.options import CommandParser, add_shared, integer, positive
from pe_spatial.commands.shell import run_module
from pe_spatial.common.console import track
from pe_spatial.common.pictures import read_image, read_indices
from pe_spatial.common.tensors import write_tensor_file
from pe_spatial.demo.scenes import SEMANTIC_CLASSES

CLASSES, COLUMNS = len(SEMANTIC_CLASSES), 3
RATE = 2e-3
ENCODER = EncoderConfig(
    name="demo-core",
    patch_size=8,
    width=64,
    depth=4,
    heads=4,
    mlp_ratio=4.0,
    image_size=96,
    cls_token=False,
    ln_post=True,
    attn_pool=True,
    pool_heads=4,
    output_dim=CLASSES * COLUMNS,
)


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this study."""
    parser.add_argument("data", type=Path, help="folder of `pe-spatial demo`, with the format labels")
    parser.add_argument("out", type=Path, help="file to write, .pt or .safetensors")
    parser.add_argument("--iterations", type=positive, default=800, metavar="N", help="of training")
    parser.add_argument("--seed", type=integer(0), default=0, metavar="N", help="of weights and order")
    add_shared(parser, "--batch-size")
    parser.set_defaults(batch_size=8)


def run(options: argparse.Namespace) -> int:
    """Train and write, unless the file is there."""
    if options.out.is_file():
        print(f"{options.out} is there already")
        return 0
    started = time.process_time()
    train, held_out = (read_captions(options.data, split) for split in ("train", "val"))
    encoder = pretrain(*train, options.iterations, options.batch_size, options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_tensor_file(encoder.state_dict(), options.out)
    constant = F.kl_div(train[1].mean(0).log().expand_as(held_out[1]), held_out[1], reduction="sum")
    with torch.no_grad():
        found = divergence(encoder, *held_out)
    print(
        f"wrote {options.out} after {time.process_time() - started:.0f} s of CPU; divergence from the true shares on "
        f"held-out pictures {float(found):.3f} nats; of a constant answer "
        f"{float(constant) / len(held_out[1]) / COLUMNS:.3f}"
    )
    return 0


def read_captions(data: Path, split: str) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [M, 3, H, W], and the shares of the classes in each third of them, [M, COLUMNS, CLASSES]."""
    pictures, labels = read_split(data, split)
    one_hot = (F.one_hot(classes, CLASSES) for classes in labels)  # [H, W, classes] each
    thirds = (classes.tensor_split(COLUMNS, dim=1) for classes in one_hot)
    shares = [torch.stack([part.float().mean(dim=(0, 1)) for part in parts]) for parts in thirds]
    return pictures, torch.stack(shares)


def read_split(data: Path, split: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """The first images of a split at the encoder's size, uint8 [M, 3, S, S], and their class indices [M, H, W]."""
    paths = sorted((data / "images" / split).iterdir())[:limit]
    size = [ENCODER.image_size, ENCODER.image_size]
    pictures = [resize(read_image(path), size, antialias=True).as_subclass(Tensor) for path in paths]
    labels = [torch.from_numpy(read_indices(data / "labels" / split / f"{path.stem}.png")) for path in paths]
    return torch.stack(pictures), torch.stack(labels)


def pretrain(
    pictures: Tensor, shares: Tensor, iterations: int, batch_size: int, seed: int, shape: EncoderConfig = ENCODER
) -> VisionTransformer:
    """Train an encoder to tell the shares."""
    torch.manual_seed(seed)
    encoder = VisionTransformer(shape)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, iterations, pct_start=0.1)
    for _ in track(range(iterations), description="pretraining"):
        chosen = torch.randint(len(pictures), (batch_size,))
        batch = pictures[chosen], shares[chosen]
        if torch.rand(()) < 0.5:
            batch = batch[0].flip(-1), batch[1].flip(1)
        loss = divergence(encoder, *batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return encoder.eval()


def divergence(encoder: VisionTransformer, pictures: Tensor, shares: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the told shares from the true ones, nats."""
    told = encoder(normalize(pictures)).unflatten(1, (COLUMNS, CLASSES)).log_softmax(dim=-1)
    return F.kl_div(told.flatten(0, 1), shares.flatten(0, 1), reduction="batchmean")


def normalize(pictures: Tensor) -> Tensor:
    """PE's statistics, mean = std = 0.5."""
    return pictures / 127.5 - 1


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], __file__))
