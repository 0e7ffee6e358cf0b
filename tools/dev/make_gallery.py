"""Make the pictures of docs/gallery.md and the strip of README, with the commands that the page names.

    python tools/dev/real_encoder.py vit_s14.safetensors
    python tools/dev/make_gallery.py --weights vit_s14.safetensors --work demo/gallery
    python tools/dev/make_gallery.py --weights vit_s14.safetensors --work demo/gallery --only strip curves

The folder of --work keeps the data, the trained models and the results: a second run makes only what is missing.
The photographs are four that scikit-image ships and that anyone may redistribute: astronaut (NASA, public domain),
chelsea (Stefan van der Walt, CC0), coffee (Rachel Michetti, CC0) and rocket (SpaceX, public domain). The synthetic
scenes are those of `pe-spatial demo`, and their models those of the tutorials, trained from random weights in
minutes: the pictures show what the tools draw, not how good a Perception Encoder is.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from pe_spatial.commands.options import CommandParser
from pe_spatial.commands.shell import run_module
from pe_spatial.common.errors import MissingPackage, UserError
from pe_spatial.common.pictures import read_image, read_indices, save_image
from pe_spatial.inference.predictor import Predictor
from pe_spatial.visualization import colorize_depth, draw_objects, enlarge
from pe_spatial.visualization.layout import row, shrink

ENCODER = "vit_small_patch14_dinov2"
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
# run: task, model and epochs, as in the tutorials
MODELS = {
    "instances": ("instances", "mask_rcnn-tiny", 15),
    "panoptic": ("panoptic", "mask_decoder-tiny", 15),
    "depth": ("depth", "dpt-tiny", 6),
    "segmentation": ("segmentation", "linear-tiny", 10),
    "aligned": ("alignment", "core-tiny", 8),  # a student of the encoder of the run segmentation
    "probe_aligned": ("segmentation", "linear-tiny", 4),  # a linear layer on that student
    "probe_random": ("segmentation", "linear-tiny", 4),  # the same on random weights
}
SHOWN_IN_VALIDATION = ("instances", "panoptic", "segmentation", "depth")
SCENE = "000012"  # of the validation part, which no model has seen
FRAMES, SHOWN = 12, 448  # of the moving view, and its side in pixels
# ellipses (x, y, radius, radius) in astronaut, by hand: the head, the patch and the helmet
OBJECTS = {1: (228, 106, 74, 80), 2: (172, 385, 42, 42), 3: (418, 440, 92, 80)}
LONGEST, LARGEST = 1400, 150_000  # pixels and bytes of a picture
PANEL = 256  # pixels of the side of a panel of the strip


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--weights", type=Path, required=True, help="file of tools/dev/real_encoder.py")
    add("--work", type=Path, default=Path("demo/gallery"), help="folder for data, models and results")
    add("--output", type=Path, default=Path("docs/images/gallery"), help="folder of the pictures")
    add("--strip", type=Path, default=Path(".github/strip.jpg"), help="file of the strip")
    add("--only", nargs="+", choices=list(PICTURES), help="make these alone")


def run(options: argparse.Namespace) -> int:
    """Make the pictures and print their sizes."""
    gallery = Gallery(options.work.resolve(), options.weights.resolve(), options.output, options.strip)
    for name in options.only or PICTURES:
        path = PICTURES[name](gallery)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


class Gallery:
    """The places of a run, and what several pictures share; everything is made when it is first asked for.

    Args:
        work: Folder for data, models and results.
        weights: Of the encoder.
        output: Folder of the pictures.
        strip: File of the strip.
    """

    def __init__(self, work: Path, weights: Path, output: Path, strip: Path) -> None:
        self.work, self.weights, self.output, self.strip = work, weights, output, strip
        work.mkdir(parents=True, exist_ok=True)

    def command(self, *arguments: str | Path) -> None:
        """Run `pe-spatial …` in the work folder.

        Raises:
            UserError: It failed.
        """
        words = [str(argument) for argument in arguments]
        if subprocess.run([sys.executable, "-m", "pe_spatial", *words], cwd=self.work, check=False).returncode:
            raise UserError(f"failed: pe-spatial {' '.join(words)}; its messages stand above")

    def data(self) -> Path:
        """The synthetic scenes."""
        place = self.work / "data"
        if not place.is_dir():
            self.command("demo", "--output", place, "--images", "240")
        return place

    def trained(self, name: str) -> Path:
        """The folder of a finished run."""
        place = self.work / "runs" / name
        if not (place / "result.json").is_file():
            task, model, epochs = MODELS[name]
            data = self.data() / "images/train" if task == "alignment" else self.data()
            self.command(
                *("train", task, "--data", data, "--model", model, "--image-size", "128"),
                *("--epochs", str(epochs), "--output", place, *self._origin(name)),
            )
        return place

    def _origin(self, name: str) -> tuple[str | Path, ...]:
        """Options that say what a run begins with."""
        if name == "aligned":
            return "--teacher", self.trained("segmentation")
        if name == "probe_aligned":
            return "--weights", self.trained("aligned"), "--tune", "frozen"
        return ("--weights", "none", "--tune", "frozen") if name == "probe_random" else ()

    def photographs(self) -> Path:
        """A folder of links to the photographs alone."""
        package = find_spec("skimage")
        if package is None or package.origin is None:
            raise MissingPackage("scikit-image is not installed: pip install scikit-image")
        place = self.work / "photographs"
        place.mkdir(exist_ok=True)
        for name in PHOTOGRAPHS:
            if not (place / name).exists():
                (place / name).symlink_to(Path(package.origin).parent / "data" / name)
        return place

    def save(self, name: str, picture: Tensor | Path) -> Path:
        """Write a picture of the gallery, as small as a page needs it."""
        shown = read_image(picture) if isinstance(picture, Path) else picture
        path = self.output / name
        return save_small(path, shrink(shown.as_subclass(Tensor), LONGEST))


def save_small(path: Path, picture: Tensor) -> Path:
    """Write a picture uint8 [3, H, W] of at most 150 kB: a chart (.png) with fewer colors, else a smaller picture."""
    save_image(path, picture)
    if path.suffix == ".png" and path.stat().st_size > LARGEST:
        image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
        save_image(path, image.quantize(256, dither=Image.Dither.NONE))
    while path.stat().st_size > LARGEST:
        picture = shrink(picture, round(0.85 * max(picture.shape[-2:])))
        save_image(path, picture)
    return path


# --- pictures of the encoder ------------------------------------------------------------------------------------------
def features(gallery: Gallery) -> Path:
    """Three blocks, and what is similar to the eye of the cat."""
    drawn = gallery.work / "features" / "chelsea.png"
    if not drawn.is_file():
        encoder = ("--encoder", ENCODER, "--weights", gallery.weights)
        photograph = gallery.photographs() / "chelsea.png"
        gallery.command(
            *("visualize", *encoder, "--input", photograph, "--output", drawn.parent),
            *("--layers", "3,7,11", "--point", "190,110"),
        )
    return gallery.save("features.jpg", drawn)


def astronaut_features(gallery: Gallery) -> Path:
    """Three blocks of the astronaut: the middle one is a panel of the strip."""
    drawn = gallery.work / "features" / "astronaut.png"
    if not drawn.is_file():
        encoder = ("--encoder", ENCODER, "--weights", gallery.weights)
        photograph = gallery.photographs() / "astronaut.png"
        gallery.command("visualize", *encoder, "--input", photograph, "--output", drawn.parent, "--layers", "3,7,11")
    return gallery.save("features_astronaut.jpg", drawn)


def moving_view(gallery: Gallery) -> tuple[Path, Path]:
    """A folder with frames of a window that moves over the astronaut, and the mask of two objects on the first."""
    frames, mask = gallery.work / "view", gallery.work / "view_mask.png"
    photograph = Image.open(gallery.photographs() / "astronaut.png").convert("RGB")
    y, x = np.mgrid[: photograph.height, : photograph.width]
    ids = np.zeros((photograph.height, photograph.width), np.uint8)
    for number, (middle_x, middle_y, radius_x, radius_y) in OBJECTS.items():
        ids[((x - middle_x) / radius_x) ** 2 + ((y - middle_y) / radius_y) ** 2 <= 1] = number
    for frame, angle in enumerate(np.linspace(0, 1.2 * np.pi, FRAMES)):
        side = 490 - 150 * np.sin(angle * 0.8)
        middle = (250 + 70 * np.sin(angle), 266 - 60 * np.sin(1.5 * angle))
        left, top = (min(max(place - side / 2, 0), 512 - side) for place in middle)
        box = (left, top, left + side, top + side)
        save_image(frames / f"{frame:05d}.png", photograph.resize((SHOWN, SHOWN), Image.Resampling.BICUBIC, box))
        if frame == 0:
            save_image(mask, Image.fromarray(ids).resize((SHOWN, SHOWN), Image.Resampling.NEAREST, box))
    return frames, mask


def tracked(gallery: Gallery) -> list[Tensor]:
    """The frames of the moving view with the tracked objects."""
    place = gallery.work / "track"
    frames, mask = moving_view(gallery)
    masks = sorted((place / frames.name).glob("*.png"))
    if len(masks) < FRAMES:
        backbone = f"{{type: TimmBackbone, model: {ENCODER}, weights: {gallery.weights}, layers: [9], norm: true}}"
        gallery.command(
            *("track", "--config", "tracking/dino_pe_spatial_b16_davis2017", "--input", frames, "--mask", mask),
            *("--output", place, f"model.backbone={backbone}", f"model.resizing.short_side={SHOWN}"),
            "--no-pictures",
        )
        masks = sorted((place / frames.name).glob("*.png"))
    return [draw_objects(read_image(frames / path.name), torch.from_numpy(read_indices(path))) for path in masks]


def track(gallery: Gallery) -> Path:
    """Four frames: the first has the masks that are given."""
    drawn = tracked(gallery)
    shown = [round(part * (len(drawn) - 1) / 3) for part in range(4)]
    captions = ["frame 1, given", *(f"frame {number + 1}" for number in shown[1:])]
    return gallery.save("track.jpg", row({text: drawn[n] for text, n in zip(captions, shown, strict=True)}))


def sweep(gallery: Gallery) -> Path:
    """Correspondences of every block on the four photographs."""
    plot = gallery.work / "sweep" / "plot.png"
    if not plot.is_file():
        backbone = f"{{type: TimmBackbone, model: {ENCODER}, weights: {gallery.weights}, layers: [-1], norm: true, "
        gallery.command(
            *("sweep", "--config", "tracking/homographies_pe_spatial_b16", "--output", plot.parent),
            f"test_dataloader.dataset.source={gallery.photographs()}",
            f"model.backbone={backbone}frozen: true}}",
        )
    return gallery.save("sweep.png", plot)


# --- pictures of the models -------------------------------------------------------------------------------------------
def validation(task: str) -> Callable[[Gallery], Path]:
    """A validation picture of the last validation: the annotation beside the prediction."""

    def draw(gallery: Gallery) -> Path:
        folders = (gallery.trained(task) / "pictures").glob("iter_*")
        folder = max(folders, key=lambda path: int(path.name.removeprefix("iter_")))
        return gallery.save(f"validation_{task}.jpg", next(folder.glob(f"*_{SCENE}.jpg")))

    return draw


def of_run(task: str, source: str, name: str) -> Callable[[Gallery], Path]:
    """A picture that stands in the folder of a run."""

    def draw(gallery: Gallery) -> Path:
        return gallery.save(name, min(gallery.trained(task).glob(source)))

    return draw


def comparison(gallery: Gallery) -> Path:
    """Linear probes on two encoders: one that an alignment trained, and the same with random weights."""
    runs = [gallery.trained("probe_aligned"), gallery.trained("probe_random")]
    gallery.command("compare", *runs, "--output", gallery.work / "compared")
    return gallery.save("comparison.png", gallery.work / "compared" / "curves.png")


def sheet(gallery: Gallery) -> Path:
    """The contact sheet of the doctor."""
    place = gallery.work / "sheets"
    gallery.command("check", gallery.data() / "annotations/instances_val.json", "--tiles", "8", "--output", place)
    return gallery.save("sheet.jpg", min(place.glob("*.png")))


def planner(gallery: Gallery) -> Path:
    """What each way to train the detector of the demo needs."""
    drawn = gallery.work / "plan.png"
    if not drawn.is_file():
        config = "demo/mask_rcnn_tiny_shapes.yaml"
        gallery.command("plan", "--config", config, "--memory", "1gb", "--device", "cpu", "--picture", drawn)
    return gallery.save("plan.png", drawn)


def drift(gallery: Gallery) -> Path:
    """How an exported file drifts from torch, layer by layer."""
    place = gallery.work / "exported"
    if not (place / "drift.png").is_file():
        gallery.command(
            *("export", gallery.trained("segmentation"), "--output", place, "--precision", "int8"),
            *("--images", gallery.data() / "images" / "train", "--tolerance", "100", "--image-size", "128"),
        )
    return gallery.save("drift.png", place / "drift.png")


def strip(gallery: Gallery) -> Path:
    """Above a photograph with its features and a track, below a scene with what three models see in it."""
    astronaut_features(gallery)
    blocks = read_image(gallery.work / "features" / "astronaut.png")  # the photograph and three blocks, side by side
    side, view = blocks.shape[-1] // 4, tracked(gallery)
    above = {
        "photograph": read_image(gallery.photographs() / "astronaut.png"),
        "features": blocks[:, -side:, 2 * side : 3 * side],
        "objects, given": view[0],
        f"track, frame {len(view)}": view[-1],
    }
    path = gallery.data() / "images" / "val" / f"{SCENE}.jpg"
    found = {task: Predictor(str(gallery.trained(task)))(path) for task in ("instances", "panoptic", "depth")}
    scene = read_image(path)
    width = enlarge(scene)[0].shape[-1]  # what lies to the right of it is a legend
    drawn = {task: torch.from_numpy(sample.draw()).permute(2, 0, 1)[..., :width] for task, sample in found.items()}
    below = {
        "synthetic scene": enlarge(scene)[0],
        "detections": drawn["instances"],
        "panoptic segments": drawn["panoptic"],
        "depth": colorize_depth(found["depth"].pred_depth.data),
    }
    return save_small(gallery.strip, torch.cat([_square(above), _square(below)], dim=1))


def _square(panels: dict[str, Tensor]) -> Tensor:
    """Pictures side by side, each as a square."""
    size = [PANEL, PANEL]
    return row({text: TF.resize(panel.as_subclass(Tensor), size) for text, panel in panels.items()})


PICTURES: dict[str, Callable[[Gallery], Path]] = {
    "features": features,
    "features_astronaut": astronaut_features,
    "track": track,
    "sweep": sweep,
    **{f"validation_{task}": validation(task) for task in SHOWN_IN_VALIDATION},
    "judged": of_run("instances", "best_and_worst/*_000024.jpg", "judged_instances.jpg"),
    "judged_segmentation": of_run("segmentation", "best_and_worst/worst_01*.jpg", "judged_segmentation.jpg"),
    "curves": of_run("instances", "curves.png", "curves.png"),
    "confusion": of_run("segmentation", "confusion.png", "confusion.png"),
    "comparison": comparison,
    "sheet": sheet,
    "planner": planner,
    "drift": drift,
    "strip": strip,
}


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], __file__))
