"""See the features of an encoder: principal components as colors, and what is similar to one token.

    python tools/visualize_features.py --encoder PE-Spatial-B16-512 --input photo.jpg --output OUT --layers 5,8,11
    python tools/visualize_features.py --encoder PE-Core-B16-224 --weights FILE --input photos --output OUT --size 448
    python tools/visualize_features.py --checkpoint work_dirs/NAME --input street.mp4 --output OUT --foreground
    python tools/visualize_features.py --encoder PE-Spatial-B16-512 --input photo.jpg --output OUT --point 320,200

Every picture shows the image and, for each layer, its features (Perception Encoder, appendix B.3.2: half-blurred, three
principal components, a color in LCh), and with --point the cosine similarity of every token to the one at that pixel.
All frames of a video share the colors of a layer, and images do with --shared; two layers never share theirs.

Exit status: 0 done, 1 some files could not be read, 2 a mistake in the command or the files, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.registry import MODELS
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.backbones import PEBackbone
from pe_spatial.backbones.vit import resolve_blocks
from pe_spatial.common.errors import UserError
from pe_spatial.common.records import output_stems
from pe_spatial.data import UnreadableFile, read_image, to_image
from pe_spatial.feature_pictures import FeatureColors, similarity, similarity_rgb
from pe_spatial.inference.stream import VIDEO_SUFFIXES, find_sources, read_frames, source_root
from pe_spatial.training.checkpoint import find_best, find_last, load_checkpoint, read_config
from pe_spatial.visualization import caption_strip

FRAMES_IN_BASIS = 24  # of a video, evenly spaced; 24 maps of PE-G are 150 MB
console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    options = parse_arguments(arguments)
    try:
        failed = run(options)
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    except (UserError, ValueError, OSError) as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    for reason in failed:
        console.print(f"not read: {reason}", markup=False, highlight=False, soft_wrap=True)
    return 1 if failed else 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    encoder = parser.add_mutually_exclusive_group(required=True)
    encoder.add_argument("--encoder", help="a released encoder such as PE-Spatial-B16-512")
    encoder.add_argument("--checkpoint", type=Path, help="of a training run of this repository, or its work folder")
    add("--weights", help="of --encoder: a file, a name, or 'none' for random ones (default: the released ones)")
    add("--input", required=True, help="an image, a video, a folder, or a glob pattern in quotes")
    add("--output", required=True, type=Path, help="a folder")
    add("--layers", default="-1", help="blocks from 0, or from the end if negative, with commas (default: the last)")
    add("--size", type=int, help="shorter side in pixels (default: the encoder's own)")
    add("--point", type=parse_point, metavar="X,Y", help="also show what is similar to the token at this pixel")
    add("--foreground", action="store_true", help="color the foreground only")
    add("--shared", action="store_true", help="one basis of colors for all images")
    add("--limit", type=int, help="stop after this many files")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(join_values(sys.argv[1:] if arguments is None else arguments))
    if options.checkpoint and options.weights:
        parser.error("--weights belongs to --encoder; a checkpoint has its own")
    return options


def join_values(arguments: Sequence[str]) -> list[str]:
    """Let `--layers -3,-1` be written as `--layers=-3,-1`, which argparse would else take for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--layers":
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def parse_point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y in pixels") from error
    return x, y


# --- features ---------------------------------------------------------------------------------------------------------
@dataclass
class Encoder:
    """A frozen backbone that gives the maps of chosen layers."""

    backbone: PEBackbone
    statistics: Tensor  # mean and standard deviation of the pixels, [2, 3, 1, 1]
    layers: list[int]
    size: int

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> list[Tensor]:
        """Maps [C, h, w], one per layer, of an image uint8 [3, H, W]; its sides are rounded to whole patches."""
        patch = self.backbone.patch_size
        scale = self.size / min(image.shape[-2:])
        target = [max(round(side * scale / patch), 1) * patch for side in image.shape[-2:]]
        pixels = F.interpolate(image[None].to(self.statistics), target, mode="bilinear", antialias=True)
        batch = (pixels - self.statistics[0]) / self.statistics[1]
        encoder = self.backbone.encoder
        skip, grid = int(encoder.has_cls), encoder.grid(batch)
        tokens = encoder.forward_features(batch, self.layers)
        return [layer[0, skip:].T.unflatten(1, grid).float().cpu() for layer in tokens]


def load_encoder(options: argparse.Namespace) -> Encoder:
    """The encoder that the command names, on its device."""
    mean = std = (127.5, 127.5, 127.5)
    if options.checkpoint:
        backbone, preparation = read_backbone(options.checkpoint)
        mean, std = preparation.get("mean", mean), preparation.get("std", std)
    else:
        weights = None if options.weights == "none" else options.weights or options.encoder
        try:
            backbone = PEBackbone(options.encoder, weights=weights)
        except KeyError as error:  # an unknown name
            raise UserError(error.args[0]) from error
    try:
        numbers = [int(part) for part in options.layers.split(",")]
    except ValueError as error:
        raise UserError(f"--layers {options.layers}: write numbers with commas, such as 5,8,-1") from error
    layers = resolve_blocks(numbers, backbone.config.depth)
    statistics = torch.tensor([mean, std], device=options.device).view(2, 3, 1, 1)
    size = options.size or backbone.config.image_size
    return Encoder(backbone.to(options.device).eval(), statistics, layers, size)


def read_backbone(path: Path) -> tuple[PEBackbone, Mapping[str, Any]]:
    """The encoder in a checkpoint and the config of its normalization; neither heads nor teachers are built.

    Raises:
        UserError: A folder without a checkpoint, or a model without an encoder.
    """
    file = (find_best(path) or find_last(path)) if path.is_dir() else path
    if file is None:
        raise UserError(f"{path}: a folder without a complete checkpoint")
    content = load_checkpoint(file)
    config = read_config(content, file)
    described = next(find_backbones(config["model"]), None)
    suffix = "encoder.conv1.weight"
    first = next((key for key in content["state_dict"] if key.endswith(suffix)), None)
    if described is None or first is None:
        raise UserError(f"{file}: {config['model'].get('type')} has no PEBackbone")
    prefix = first.removesuffix(suffix)
    backbone = MODELS.build({**described, "weights": None})
    state = content["state_dict"].items()
    backbone.load_state_dict({key.removeprefix(prefix): value for key, value in state if key.startswith(prefix)})
    return backbone, config["model"].get("data_preprocessor") or config.get("data_preprocessor") or {}


def find_backbones(config: Any) -> Iterator[dict[str, Any]]:
    """The configs of encoders in the config of a model, without those of its teachers."""
    if isinstance(config, dict):
        if config.get("type") == "PEBackbone":
            yield config
        for key, value in config.items():
            if key != "teachers":
                yield from find_backbones(value)


# --- pictures ---------------------------------------------------------------------------------------------------------
class Painter:
    """Draws the features of images; `fit` gives the colors that all images after it share."""

    def __init__(self, encoder: Encoder, options: argparse.Namespace) -> None:
        self.encoder = encoder
        self.point: tuple[float, float] | None = options.point
        self.foreground: bool = options.foreground
        self.colors: list[FeatureColors] | None = None

    def fit(self, images: Iterator[Tensor]) -> None:
        """Take the basis of every layer from these images."""
        maps = [self.encoder(image) for image in images]
        self.colors = [FeatureColors(layer, self.foreground) for layer in zip(*maps, strict=True)]

    def __call__(self, image: Tensor) -> Tensor:
        """The picture uint8 [3, H', W'] of an image uint8 [3, H, W]: panels of its size side by side."""
        maps = self.encoder(image)
        colors = self.colors or [FeatureColors([layer], self.foreground) for layer in maps]
        shown, scale = self._fitted(image)
        rows = [[("", self._marked(shown, scale))]]
        for number, layer, paint in zip(self.encoder.layers, maps, colors, strict=True):
            rows[0].append((f"layer {number}", _stretch(paint(layer), shown.shape[-2:])))
        if self.point:
            rows.append([("", torch.full_like(shown, 245))])
            for number, layer in zip(self.encoder.layers, maps, strict=True):
                cosines = similarity(layer, self._token(image, layer))
                panel = self._marked(_stretch(similarity_rgb(cosines), shown.shape[-2:]), scale)
                rows[1].append((f"layer {number}: cosine {cosines.min():.2f} … 1", panel))
        return torch.cat([torch.cat([caption_strip(*panel) for panel in row], dim=2) for row in rows], dim=1)

    def _fitted(self, image: Tensor) -> tuple[Tensor, float]:
        """The image with its shorter side at the size that the encoder sees, but no less than can be looked at."""
        scale = max(self.encoder.size, 320) / min(image.shape[-2:])
        size = [round(side * scale / 2) * 2 for side in image.shape[-2:]]  # video needs even sides
        pixels = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
        return pixels.round().clamp(0, 255).to(torch.uint8), scale

    def _token(self, image: Tensor, layer: Tensor) -> tuple[int, int]:
        assert self.point is not None
        (x, y), (H, W) = self.point, image.shape[-2:]
        if not (0 <= x < W and 0 <= y < H):
            raise UserError(f"--point {x:g},{y:g} is outside an image of {W} x {H} pixels")
        return int(y / H * layer.shape[1]), int(x / W * layer.shape[2])

    def _marked(self, picture: Tensor, scale: float) -> Tensor:
        """A cross at the point, if there is one."""
        if self.point is None:
            return picture
        place = tuple(round(value * scale) for value in self.point)
        pixels = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
        for color, thickness in (((0, 0, 0), 5), ((255, 255, 255), 2)):
            cv2.drawMarker(pixels, place, color, cv2.MARKER_CROSS, 21, thickness)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def _stretch(picture: Tensor, size: Sequence[int]) -> Tensor:
    """Every token as a rectangle of one color: nothing is shown that the map does not hold."""
    return F.interpolate(picture[None], tuple(size), mode="nearest-exact")[0]


# --- files ------------------------------------------------------------------------------------------------------------
def run(options: argparse.Namespace) -> list[str]:
    """Draw everything; returns what could not be read."""
    paths = find_sources(options.input)[: options.limit]
    painter = Painter(load_encoder(options), options)
    names = {path: path.relative_to(source_root(options.input)).as_posix() for path in paths}
    stems = output_stems(names.values())
    images = [path for path in paths if path.suffix.lower() not in VIDEO_SUFFIXES]
    if options.shared and images:
        painter.fit(read_image(path) for path in images[:: -(-len(images) // FRAMES_IN_BASIS)])
    failed: list[str] = []
    for path in track(images, "", console=console, disable=not images):
        with noting(failed):
            save(painter(read_image(path)), options.output / f"{stems[names[path]]}.png")
    for path in paths:
        if path not in images:
            with noting(failed):
                draw_video(painter, path, options.output / f"{stems[names[path]]}.mp4")
    print(f"wrote {len(paths) - len(failed)} of {len(paths)} files to {options.output}")
    return failed


@contextmanager
def noting(failed: list[str]) -> Iterator[None]:
    """Go on with the next file after one that cannot be read."""
    try:
        yield
    except UnreadableFile as error:
        failed.append(str(error))


def save(picture: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)


def draw_video(painter: Painter, path: Path, output: Path) -> None:
    """Draw a video with one basis of colors."""
    count = sum(1 for _ in frames(path))
    step = -(-count // FRAMES_IN_BASIS)
    painter.fit(image for number, (image, _) in enumerate(frames(path)) if number % step == 0)
    output.parent.mkdir(parents=True, exist_ok=True)
    writer: cv2.VideoWriter | None = None
    try:
        for image, rate in track(frames(path), path.name, total=count, console=console):
            picture = painter(image)
            if writer is None:
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(output), codec, rate, (picture.shape[2], picture.shape[1]))
                if not writer.isOpened():
                    raise UserError(f"{output}: this OpenCV cannot write MP4 video; draw the frames as images")
            writer.write(np.ascontiguousarray(picture.flip(0).permute(1, 2, 0).numpy()))  # OpenCV wants BGR
    finally:
        if writer is not None:
            writer.release()


def frames(path: Path) -> Iterator[tuple[Tensor, float]]:
    """Frames uint8 [3, H, W] and the frame rate.

    Raises:
        UnreadableFile: It is no video.
    """
    for source, picture in read_frames(path):
        if isinstance(picture, Exception):
            raise picture
        assert isinstance(picture, np.ndarray)
        yield to_image(picture), source.frames_per_second or 25.0


if __name__ == "__main__":
    sys.exit(main())
