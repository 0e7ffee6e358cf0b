"""Train a small PE-Core from scratch on synthetic scenes with captions, in minutes on a CPU.

It is made to try the commands with, and to prove them: such a model knows the words of the scenes and no others.

Letters: B scenes, as many captions, D channels of a feature.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pe_spatial.backbones.text import PECore, prepare_picture
from pe_spatial.backbones.text.contrast import mutual_cross_entropy
from pe_spatial.common.console import progress
from pe_spatial.common.errors import require_positive
from pe_spatial.demo.captions import SIDE, draw_caption, draw_described, draw_objects

# the shape of the model, as `variant` of PECore takes it
SMALL_CORE: dict[str, Any] = {
    "name": "PE-Core-demo",
    "patch_size": 6,
    "width": 64,
    "depth": 3,
    "heads": 4,
    "mlp_ratio": 4.0,
    "image_size": SIDE,
    "cls_token": True,
    "ln_post": True,
    "attn_pool": True,
    "pool_heads": 4,
    "output_dim": 64,
    "text": {"context": 24, "width": 64, "depth": 2, "heads": 4},
}
LARGEST_SCALE = math.log(100)  # of the logits, as CLIP clips it


@dataclass(frozen=True)
class TrainingSettings:
    """How a small PE-Core is trained.

    Args:
        iterations: Steps of the optimizer.
        batch_size: Scenes in each.
        scenes: How many different ones are drawn, each with a new caption whenever it is seen.
        seed: Equal seeds give equal models on one machine.
        learning_rate: Highest one of AdamW; it rises for a tenth of the steps and falls to zero by a cosine.
    """

    iterations: int = 1500
    batch_size: int = 64
    scenes: int = 8000
    seed: int = 0
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require_positive(iterations=self.iterations, batch_size=self.batch_size, scenes=self.scenes)


def train_small_core(settings: TrainingSettings) -> PECore:
    """A PE-Core trained by contrasts; no scene has a combination that `demo.captions` holds out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = PECore(SMALL_CORE).train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, settings.iterations))
    with progress("training", settings.iterations, "steps") as bar:
        for images, texts, truth in _batches(settings):
            loss = contrastive_loss(model, images, texts, truth)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=LARGEST_SCALE)
            bar.advance(description=f"training, loss {loss.item():.3f}")
    return model.eval()


def contrastive_loss(model: PECore, images: Tensor, texts: Sequence[str], truth: Tensor) -> Tensor:
    """The mean of both cross entropies, of captions for scenes and of scenes for captions.

    A caption may be true of several scenes, and then each of them is an equal target.

    Args:
        model: In training mode.
        images: [B, 3, S, S], prepared.
        texts: B captions.
        truth: Bool [B, B], True where the caption of the column is true of the scene of the row.
    """
    logits = model.logits(model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True))
    return mutual_cross_entropy(logits, truth)


def rate(step: int, steps: int) -> float:
    """The share of the highest learning rate at a step: up along a line for a tenth of them, down along a cosine."""
    warm = max(steps // 10, 1)
    return (step + 1) / warm if step < warm else (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1))) / 2


def _batches(settings: TrainingSettings) -> Iterator[tuple[Tensor, list[str], Tensor]]:
    rng = np.random.default_rng([settings.seed, 3])
    scenes = [draw_objects(rng)[0] for _ in range(settings.scenes)]
    images: list[Tensor | None] = [None] * len(scenes)  # drawn when they are needed first
    for _ in range(settings.iterations):
        chosen = rng.integers(len(scenes), size=settings.batch_size).tolist()
        for i in chosen:
            if images[i] is None:
                pixels = draw_described([settings.seed, 4, i], [scenes[i]]).image
                images[i] = prepare_picture(torch.from_numpy(pixels).permute(2, 0, 1), SIDE)
        said = [draw_caption(rng, scenes[i]) for i in chosen]
        truth = torch.tensor([[words.fits(scenes[i]) for words in said] for i in chosen])
        yield torch.stack([image for i in chosen if (image := images[i]) is not None]), list(map(str, said)), truth
