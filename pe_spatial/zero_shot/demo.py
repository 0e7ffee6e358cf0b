"""A small PE-Core together with pictures, captions and videos to try it with."""

import csv
import io
from collections.abc import Iterator, Sequence
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
from pe_spatial.demo.captions import (
    ALL_WORDS,
    COLORS,
    HELD_OUT,
    Words,
    described_room,
    draw_caption,
    draw_described,
    draw_objects,
)
from pe_spatial.demo.datasets import MARKER, move_into_place, new_partial, read_marker, require_place
from pe_spatial.demo.scenes import paint
from pe_spatial.zero_shot.training import TrainingSettings, train_small_core

KINDS = ("color", "shape", "place")
TEMPLATE = "a {c}"


def _class_name(words: Words) -> str:
    return str(words).removeprefix("a ")


CLASS_NAMES = tuple(map(_class_name, ALL_WORDS))

_VERSION = 2  # raised when what is written changes
_PICTURES, _VIDEOS, _VIDEO_FRAMES = 180, 6, 20
_SCENES = {"train": 1500, "val": 150}
_CAPTIONS = 6  # of each of them, less those that are equal
_JUDGED = 600  # scenes that the accuracy is measured on


def write_words_demo(output: Path, settings: TrainingSettings, replace: bool = False) -> dict[str, Any] | None:
    """Train a small PE-Core and write it with held-out scenes.

        OUT/pe_core.json, pe_core.safetensors      what `--encoder OUT` finds
        OUT/held_out/red disc on the left/000001.png   scenes of combinations that no training has seen
        OUT/classes.txt, templates.txt             all 54 combinations, and the sentence of the captions
        OUT/captions.json                          of each picture of held_out its true captions
        OUT/videos/000001.mp4, videos.csv          short videos of such scenes, in Kinetics' form
        OUT/scenes/{images,labels}/{train,val}     scenes with the class of every pixel, described by
        OUT/scenes/classes.yaml                    the colors; val has two held-out combinations in each
        OUT/scenes/captions_train.json             captions of the pictures of train
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
    """How often the model names scenes whose combination of color, shape and place no training has shown.

    Returns:
        `accuracy` among all 54 combinations and `chance`, 1 / 54; and of each kind of word how often it is right in the
        answer, with its chance.
    """
    count = count or _JUDGED
    images, true = zip(*held_out_scenes(count, seed), strict=True)
    vectors = class_vectors(model, Prompts(CLASS_NAMES, (TEMPLATE,)))
    inputs = torch.stack([model.preprocess(image) for image in images])
    features = torch.cat([model.encode_image(part, normalize=True) for part in inputs.split(64)])
    said = [ALL_WORDS[row] for row in (features @ vectors.T).argmax(dim=1).tolist()]
    result: dict[str, Any] = {"scenes": count, "held_out": sorted(map(_class_name, HELD_OUT))}
    result |= {"accuracy": _share(said, true, *KINDS), "chance": round(1 / len(ALL_WORDS), 4)}
    for kind in KINDS:
        result[f"accuracy_{kind}"] = _share(said, true, kind)
        result[f"chance_{kind}"] = round(1 / len({getattr(words, kind) for words in ALL_WORDS}), 4)
    return result


def _share(said: Sequence[Words], true: Sequence[Words], *kinds: str) -> float:
    """Of how many scenes the words of all these kinds are right."""
    right = [all(getattr(a, kind) == getattr(b, kind) for kind in kinds) for a, b in zip(said, true, strict=True)]
    return round(sum(right) / len(right), 4)


def held_out_scenes(count: int, seed: int = 0) -> Iterator[tuple[Tensor, Words]]:
    """Scenes of one object with combinations that no training has seen, and what they show.

    Yields:
        uint8 [3, S, S] and the object in full words.
    """
    for number in range(count):
        objects = draw_objects(np.random.default_rng([seed, 1, number]), held_out=True)
        yield _tensor(draw_described([seed, 2, number], objects).image), objects[0]


def _write_pictures(folder: Path, seed: int) -> None:
    captions = {}
    for number, (image, words) in enumerate(held_out_scenes(_PICTURES, seed), 1):
        name = f"{_class_name(words)}/{number:06d}.png"
        save_image(folder / "held_out" / name, image)
        captions[name] = [str(Words(words.color, words.shape)), str(words)]
    write_json(folder / "captions.json", captions)


def _write_videos(folder: Path, seed: int) -> None:
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["video", "class"])
    (folder / "videos").mkdir()
    for number in range(1, _VIDEOS + 1):
        rng = np.random.default_rng([seed, 5, number])
        objects = draw_objects(rng, held_out=True)
        room = described_room(rng, objects)
        name = f"videos/{number:06d}.mp4"
        with VideoWriter(folder / name) as video:
            for time in range(_VIDEO_FRAMES):
                video.write(_tensor(paint(room, time).image))
        rows.writerow([name, _class_name(objects[0])])
    write_text(folder / "videos.csv", text.getvalue())


def _write_scenes(folder: Path, seed: int) -> None:
    """Scenes with captions, and label maps: 0 is no object, then the colors in their order.

    Those of val have two objects of different colors, so that it counts which words are said where.
    """
    colors = list(COLORS)
    captions: dict[str, list[str]] = {}
    for number, (split, count) in enumerate(_SCENES.items()):
        for index in range(count):
            rng = np.random.default_rng([seed, 6, number, index])
            objects = draw_objects(rng, count=1 + index % 2) if split == "train" else _two_colors(rng)
            name = f"{index + 1:06d}.png"
            if split == "train":
                said = [" and ".join(str(draw_caption(rng, thing)) for thing in objects) for _ in range(_CAPTIONS)]
                captions[name] = list(dict.fromkeys(said))
            scene = draw_described([seed, 7, number, index], objects)
            rows = np.array([0, *(1 + colors.index(str(words.color)) for words in objects)], np.uint8)
            for kind, pixels in (("images", scene.image), ("labels", rows[scene.ids])):
                save_image(folder / kind / split / name, pixels)
    write_json(folder / "captions_train.json", captions)
    places = (f"{kind}: {{{', '.join(f'{s}: {kind}/{s}' for s in _SCENES)}}}" for kind in ("images", "labels"))
    names = ", ".join(_class_name(Words(color)) for color in colors)
    write_text(folder / "classes.yaml", "\n".join((f"classes: [{names}]", "zero_is_ignored: true", *places, "")))


def _two_colors(rng: np.random.Generator) -> tuple[Words, ...]:
    """Two objects of held-out combinations and of different colors."""
    while True:
        objects = draw_objects(rng, held_out=True, count=2)
        if objects[0].color != objects[1].color:
            return objects


def _tensor(image: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """uint8 [3, H, W] of [H, W, 3]."""
    return torch.from_numpy(image).permute(2, 0, 1)
