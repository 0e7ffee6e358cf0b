"""A small PE-Core together with pictures, captions and videos to try it with."""

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pe_spatial.backbones.text import PECore, Prompts, class_vectors, save_core
from pe_spatial.common.files import write_json, write_text
from pe_spatial.common.pictures import save_image
from pe_spatial.common.video import VideoWriter
from pe_spatial.demo.captions import HELD_OUT, PAIRS, Words, caption, described_room, draw_described, draw_objects
from pe_spatial.demo.datasets import MARKER, move_into_place, new_partial, read_marker, require_place
from pe_spatial.demo.scenes import paint
from pe_spatial.zero_shot.training import TrainingSettings, train_small_core

CLASS_NAMES = tuple(f"{color} {shape}" for color, shape in PAIRS)
TEMPLATE = "a {c}"

_VERSION = 2  # raised when what is written changes
_PICTURES, _VIDEOS, _VIDEO_FRAMES = 180, 6, 20
_SCENES = {"train": 600, "val": 150}
_JUDGED = 600  # scenes that the accuracy is measured on


def write_words_demo(output: Path, settings: TrainingSettings, replace: bool = False) -> dict[str, Any] | None:
    """Train a small PE-Core and write it with held-out scenes.

        OUT/pe_core.json, pe_core.safetensors      what `--encoder OUT` finds
        OUT/held_out/red disc/000001.png           scenes of combinations that no training has seen
        OUT/classes.txt, templates.txt             all 18 combinations, and the sentence of the captions
        OUT/captions.json                          of each picture of held_out its true captions
        OUT/videos/000001.mp4, videos.csv          short videos of such scenes, in Kinetics' form
        OUT/scenes/{images,labels}/{train,val}     scenes with the class of every pixel, described by
        OUT/scenes/classes.yaml                    background and the combinations; those of val are held out
        OUT/demo.json                              how it was made, and its accuracy beside chance

    Args:
        output: A folder; a killed run leaves nothing in it.
        settings: Of the training.
        replace: Replace another demo in that folder; other files there are kept.

    Returns:
        What demo.json says; None where the folder holds this very demo already.

    Raises:
        UserError: The folder holds something else.
    """
    made = {"version": _VERSION, **asdict(settings)}
    found = read_marker(output)
    if found is not None and found.get("words") == made:
        return None
    require_place(output, replace)
    model = train_small_core(settings)
    description = {"words": made, **held_out_accuracy(model, settings.seed)}
    folder = new_partial(output)
    save_core(model, folder)
    _write_pictures(folder, settings.seed)
    _write_videos(folder, settings.seed)
    _write_scenes(folder / "scenes", settings.seed)
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in CLASS_NAMES))
    write_text(folder / "templates.txt", f"{TEMPLATE}\n")
    write_json(folder / MARKER, description)
    move_into_place(folder, output)
    return description


@torch.no_grad()
def held_out_accuracy(model: PECore, seed: int = 0, count: int | None = None) -> dict[str, Any]:
    """How often the model names scenes whose combination of color and shape no training has shown.

    Returns:
        `accuracy` among all 18 combinations and `chance`, 1 / 18; `accuracy_color` and `accuracy_shape`, the shares in
        which that word alone is right, and their chances.
    """
    count = count or _JUDGED
    images, words = zip(*held_out_scenes(count, seed), strict=True)
    vectors = class_vectors(model, Prompts(CLASS_NAMES, (TEMPLATE,)))
    inputs = torch.stack([model.preprocess(image) for image in images])
    features = torch.cat([model.encode_image(part, normalize=True) for part in inputs.split(64)])
    said = [PAIRS[row] for row in (features @ vectors.T).argmax(dim=1).tolist()]
    true = [(one.color, one.shape) for one in words]
    both, color, shape = (
        sum(part(a) == part(b) for a, b in zip(said, true, strict=True)) / count
        for part in (lambda pair: pair, lambda pair: pair[0], lambda pair: pair[1])
    )
    colors, shapes = (len({pair[i] for pair in PAIRS}) for i in (0, 1))
    return {
        "scenes": count,
        "held_out": sorted(" ".join(pair) for pair in HELD_OUT),
        "accuracy": round(both, 4),
        "chance": round(1 / len(PAIRS), 4),
        "accuracy_color": round(color, 4),
        "chance_color": round(1 / colors, 4),
        "accuracy_shape": round(shape, 4),
        "chance_shape": round(1 / shapes, 4),
    }


def held_out_scenes(count: int, seed: int = 0) -> Iterator[tuple[Tensor, Words]]:
    """Scenes of one object with combinations that no training has seen, and what they show.

    Yields:
        uint8 [3, S, S] and the object in full words.
    """
    for number in range(count):
        objects = draw_objects(np.random.default_rng([seed, 1, number]), held_out=True, count=1)
        yield _tensor(draw_described([seed, 2, number], objects).image), objects[0]


def _write_pictures(folder: Path, seed: int) -> None:
    captions = {}
    for number, (image, words) in enumerate(held_out_scenes(_PICTURES, seed), 1):
        name = f"{words.color} {words.shape}/{number:06d}.png"
        save_image(folder / "held_out" / name, image)
        captions[name] = [caption([Words(words.color, words.shape)]), caption([words])]
    write_json(folder / "captions.json", captions)


def _write_videos(folder: Path, seed: int) -> None:
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["video", "class"])
    (folder / "videos").mkdir()
    for number in range(1, _VIDEOS + 1):
        rng = np.random.default_rng([seed, 5, number])
        objects = draw_objects(rng, held_out=True, count=1)
        room = described_room(rng, objects)
        name = f"videos/{number:06d}.mp4"
        with VideoWriter(folder / name) as video:
            for time in range(_VIDEO_FRAMES):
                video.write(_tensor(paint(room, time).image))
        rows.writerow([name, f"{objects[0].color} {objects[0].shape}"])
    write_text(folder / "videos.csv", text.getvalue())


def _write_scenes(folder: Path, seed: int) -> None:
    """Scenes of one object or two, and label maps: 0 is background, then the combinations in their order."""
    for number, (split, count) in enumerate(_SCENES.items()):
        for index in range(count):
            objects = draw_objects(np.random.default_rng([seed, 6, number, index]), held_out=split == "val")
            scene = draw_described([seed, 7, number, index], objects)
            rows = np.array([0, *(1 + PAIRS.index((words.color, words.shape)) for words in objects)], np.uint8)
            for kind, pixels in (("images", scene.image), ("labels", rows[scene.ids])):
                save_image(folder / kind / split / f"{index + 1:06d}.png", pixels)
    places = (f"{kind}: {{{', '.join(f'{s}: {kind}/{s}' for s in _SCENES)}}}" for kind in ("images", "labels"))
    names = ", ".join(("background", *CLASS_NAMES))
    write_text(folder / "classes.yaml", "\n".join((f"classes: [{names}]", *places, "")))


def _tensor(image: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """uint8 [3, H, W] of [H, W, 3]."""
    return torch.from_numpy(image).permute(2, 0, 1)
