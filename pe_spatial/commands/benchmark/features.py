"""Features to files against the encoder alone: `pe-spatial benchmark features`."""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pe_spatial.commands.benchmark.measuring import clock_of, median_ratio, show, take_turns
from pe_spatial.commands.features import write_features
from pe_spatial.common.records import Part
from pe_spatial.common.sources import Entry, resolve_sources
from pe_spatial.features import FeatureExtractor
from pe_spatial.features.plan import bundles_of, targets_of
from pe_spatial.features.writer import check_format

_SIZE = (480, 640)  # of the pictures that are made where none are given

Seconds = tuple[float, float]  # by the clock on the wall, and of the processor


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Time both in alternating rounds and show the figures."""
    torch.manual_seed(0)
    extractor = FeatureExtractor(
        options.encoder,
        weights="none",
        image_size=options.image_size,
        dtype="fp16",
        batch_size=options.batch_size,
        device=options.device,
    )
    check_format(options.format, extractor)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = options.input or draw_pictures(folder / "pictures", options.limit)
        files = {entry.name: entry for entry in resolve_sources(source, ["image"])[: options.limit]}
        setting = {"encoder": options.encoder, "images": len(files), "batch": options.batch_size}
        setting |= {"size": extractor.sizing.image_size, "format": options.format}
        show(setting)
        ways: dict[str, Callable[[int], Seconds]] = {
            "encoder": lambda _: encode(extractor, batches),
            "features": lambda number: write(extractor, files, folder / str(number), options),
        }
        batches = ready_batches(extractor, files)
        seconds = take_turns(ways, options.rounds)
    figures: dict[str, Any] = {}
    for place, clock in enumerate(("wall", "cpu")):
        by_way = {way: [pair[place] for pair in pairs] for way, pairs in seconds.items()}
        for way, times in by_way.items():
            figures[f"{way}_images_per_{clock}_s"] = len(files) / float(np.median(times))
        figures[f"of_the_encoder_by_{clock}"] = median_ratio(by_way["features"], by_way["encoder"])
    show(figures)
    return {**setting, **figures}


def draw_pictures(folder: Path, count: int) -> Path:
    """JPEG files with structure at several scales; a photograph of this size is decoded as fast."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        layers = [generator.integers(0, 256, (_SIZE[0] // side, _SIZE[1] // side, 3), np.uint8) for side in (4, 20, 80)]
        images = [Image.fromarray(layer).resize(_SIZE[::-1], Image.Resampling.BICUBIC) for layer in layers]
        mixed = np.mean([np.asarray(image, np.float32) for image in images], axis=0)
        Image.fromarray(mixed.astype(np.uint8)).save(folder / f"{number:04d}.jpg", quality=90)
    return folder


def ready_batches(extractor: FeatureExtractor, files: dict[str, Entry]) -> list[Tensor]:
    """The pictures as the encoder takes them, normalized float32 [B, 3, H, W], in the batches of `write`."""
    bundles = bundles_of(files, targets_of(files, extractor.sizing), extractor.batch_size, 1)
    loaded = [
        torch.stack([extractor.load(files[name].path)["img"] for name in batch])
        for bundle in bundles
        for batch in bundle.batches
    ]
    return [extractor.normalize(images) for images in loaded]


@torch.inference_mode()
def encode(extractor: FeatureExtractor, batches: Sequence[Tensor]) -> Seconds:
    """Run the encoder, and nothing else."""
    return _timed(lambda: [extractor.encoder.backbone(batch) for batch in batches], extractor.device)


def write(extractor: FeatureExtractor, files: dict[str, Entry], folder: Path, options: argparse.Namespace) -> Seconds:
    """Read, encode and write all pictures into a new folder."""
    settings = {"output": folder, "format": options.format, "tar_pictures": len(files), "no_pictures": True}
    chosen = argparse.Namespace(**settings)
    return _timed(lambda: write_features(extractor, files, Part(), chosen), extractor.device)


def _timed(work: Callable[[], object], device: torch.device) -> Seconds:
    clocks = clock_of(device), time.process_time
    started = [clock() for clock in clocks]
    work()
    wall, cpu = (clock() - start for clock, start in zip(clocks, started, strict=True))
    return wall, cpu
