"""Synthetic scenes as datasets: COCO, label maps, panoptic segments, depth and DAVIS."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pe_spatial.common.console import track
from pe_spatial.common.errors import UnreadableFile, UserError
from pe_spatial.common.files import write_json
from pe_spatial.common.reading import read_json
from pe_spatial.data.loading import encode_masks
from pe_spatial.demo.scenes import CLASSES, SEMANTIC_CLASSES, Scene, draw_scene, draw_video
from pe_spatial.demo.textures import load_photographs
from pe_spatial.visualization import class_colors, palette

SPLITS = ("train", "val")
MARKER = "demo.json"
# raised when the drawing or the layout changes, so that an older dataset is not taken for a current one
VERSION = 6
# colors of the classes [256, 3]; black is left for pixels without a label
CLASS_COLORS = np.zeros((256, 3), np.uint8)
CLASS_COLORS[: len(SEMANTIC_CLASSES)] = class_colors(SEMANTIC_CLASSES)


@dataclass(frozen=True)
class DemoSettings:
    """What a demo dataset holds.

    Args:
        images: Number of scenes; every sixth is for validation.
        size: Height and width of the scenes in pixels.
        seed: Equal seeds give equal data.
        formats: Some of `pe_spatial.demo.FORMATS`.
        videos: Number of videos, for the format davis.
        frames: Of a video.
        video_size: (H, W) in pixels.
        photographs: Whether textures are also cut from the photographs of scikit-image, where it is installed.
        objects: Number of objects in a scene; None draws one to five. Those that others hide are left out.
        object_size: Smallest and largest diameter of the objects in pixels; None: from a sixth to half of `size`.
    """

    images: int
    size: int
    seed: int
    formats: list[str]
    videos: int
    frames: int
    video_size: list[int]
    photographs: bool
    objects: int | None = None
    object_size: list[float] | None = None


def write_demo(output: Path, settings: DemoSettings, replace: bool = False) -> bool:
    """Write a dataset; a killed run leaves nothing in `output`.

    Args:
        output: The folder.
        settings: What it shall hold.
        replace: Replace another dataset in that folder; other files there are kept.

    Returns:
        False where the folder held this very dataset already.

    Raises:
        UserError: The folder holds something else.
    """
    photographs = load_photographs() if settings.photographs else []
    description = {"version": VERSION, **asdict(settings), "photographs": len(photographs)}
    # what is not set is not described, as before there was such a setting
    description = {name: value for name, value in description.items() if value is not None}
    if read_marker(output) == description:
        return False
    require_place(output, replace)
    partial = new_partial(output)
    if set(settings.formats) - {"davis"}:
        numbers = range(settings.images)
        diameters = None if settings.object_size is None else (settings.object_size[0], settings.object_size[1])
        scenes = (
            draw_scene([settings.seed, 0, number], settings.size, photographs, settings.objects, diameters)
            for number in numbers
        )
        write_scenes(partial, track(scenes, "scenes", settings.images, "images"), settings.formats)
    if "davis" in settings.formats:
        size, length = (settings.video_size[0], settings.video_size[1]), settings.frames
        numbers = range(settings.videos)
        videos = (draw_video([settings.seed, 1, number], size, length, photographs) for number in numbers)
        write_davis(partial / "davis", track(videos, "videos", settings.videos, "videos"))
    write_json(partial / MARKER, description, indent=2)
    move_into_place(partial, output)
    return True


def read_marker(output: Path) -> dict[str, Any] | None:
    """The description of the complete dataset in a folder, if there is one."""
    try:
        return read_json(output / MARKER, {})
    except (FileNotFoundError, NotADirectoryError, UnreadableFile):
        return None


def require_place(output: Path, replace: bool) -> None:
    """Refuse a folder that holds something else, unless it is to be replaced.

    Raises:
        UserError: It does, or it is a file.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not replace):
        raise UserError(
            f"{output} holds something else; choose another folder, or replace the dataset in it with --force"
        )


def new_partial(output: Path) -> Path:
    """An empty folder beside `output`, for `move_into_place`; a run that was killed leaves only this behind."""
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def move_into_place(partial: Path, output: Path) -> None:
    """Rename the finished folder; into a folder that holds something, entry by entry with the marker last."""
    if not output.exists() or not any(output.iterdir()):
        partial.replace(output)
        return
    (output / MARKER).unlink(missing_ok=True)
    for entry in sorted(partial.iterdir(), key=lambda path: path.name == MARKER):
        target = output / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        entry.replace(target)
    partial.rmdir()


# --- single images ----------------------------------------------------------------------------------------------------
def write_scenes(out: Path, scenes: Iterator[Scene], formats: Sequence[str]) -> None:
    """Images, and their ground truth in each of the formats. Image ids count the scenes from 1 over both splits."""
    folders = ["images", *(name for name in ("labels", "panoptic", "depth") if name in formats)]
    for folder in folders:
        for split in SPLITS:
            (out / folder / split).mkdir(parents=True)
    contents = {kind: {split: empty_annotations(kind) for split in SPLITS} for kind in ("instances", "panoptic")}
    for number, scene in enumerate(scenes, 1):
        split, name = SPLITS[number % 6 == 0], f"{number:06d}"
        coco, panoptic = contents["instances"][split], contents["panoptic"][split]
        Image.fromarray(scene.image).save(out / "images" / split / f"{name}.jpg", quality=95)
        if "labels" in formats:
            save_indices(out / "labels" / split / f"{name}.png", scene.semantic, CLASS_COLORS)
        if "depth" in formats:
            millimeters = (1000 * scene.depth).round().astype(np.uint16)
            Image.fromarray(millimeters).save(out / "depth" / split / f"{name}.png")
        if "panoptic" in formats:
            ids = add_to_panoptic(panoptic, number, name, scene)
            Image.fromarray(ids).save(out / "panoptic" / split / f"{name}.png")
        add_to_coco(coco, number, scene)
        height, width = scene.camera.size
        for content in (coco, panoptic):
            content["images"].append({"id": number, "file_name": f"{name}.jpg", "height": height, "width": width})
    for kind, key in (("instances", "coco"), ("panoptic", "panoptic")):
        if key in formats:
            (out / "annotations").mkdir(exist_ok=True)
            for split, content in contents[kind].items():
                path = out / "annotations" / f"{kind}_{split}.json"
                path.write_text(json.dumps(content), encoding="utf-8")
    if "labels" in formats:
        (out / "classes.yaml").write_text(class_list(), encoding="utf-8")


def class_list() -> str:
    """The description that SegmentationFolder reads."""
    lines = [f"  {name}: {color}" for name, color in zip(SEMANTIC_CLASSES, CLASS_COLORS.tolist(), strict=False)]
    folders = [f"{kind}: {{{', '.join(f'{s}: {kind}/{s}' for s in SPLITS)}}}" for kind in ("images", "labels")]
    return "\n".join(["classes:", *lines, *folders, ""])


def category_id(name: str) -> int:
    """The same in instances and panoptic segments, so that masks of the one can be scored against the other."""
    return SEMANTIC_CLASSES.index(name) + 1


def empty_annotations(kind: str) -> dict[str, list[Any]]:
    """An annotation file of `instances` or `panoptic` segments without images."""
    if kind == "instances":
        categories = [{"id": category_id(name), "name": name, "supercategory": "shape"} for name in CLASSES]
    else:
        categories = [
            {"id": category_id(name), "name": name, "isthing": int(name in CLASSES), "color": color}
            for name, color in zip(SEMANTIC_CLASSES, CLASS_COLORS.tolist(), strict=False)
        ]
    return {"images": [], "annotations": [], "categories": categories}


def add_to_coco(coco: dict[str, list[Any]], image_id: int, scene: Scene) -> None:
    """Append the objects of an image."""
    masks = scene.masks
    rles = encode_masks(torch.from_numpy(masks))
    for label, (x1, y1, x2, y2), mask, rle in zip(scene.labels, scene.boxes.tolist(), masks, rles, strict=True):
        coco["annotations"].append(
            {
                "id": len(coco["annotations"]) + 1,
                "image_id": image_id,
                "category_id": category_id(CLASSES[label]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(mask.sum()),
                "segmentation": rle,
                "iscrowd": 0,
            }
        )


def add_to_panoptic(panoptic: dict[str, list[Any]], image_id: int, name: str, scene: Scene) -> NDArray[np.uint8]:
    """Describe the visible segments: the objects, numbered from 1, and above them wall and floor. Returns the PNG."""
    stuff = len(scene.labels) + 1 + scene.semantic.astype(np.int64)
    ids = np.where(scene.ids > 0, scene.ids, stuff)  # [H, W]
    present, first, counts = np.unique(ids, return_index=True, return_counts=True)
    segments = [
        {"id": int(n), "category_id": int(label) + 1, "area": int(area), "iscrowd": 0}
        for n, label, area in zip(present, scene.semantic.ravel()[first], counts, strict=True)
    ]
    panoptic["annotations"].append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments})
    return np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], axis=-1).astype(np.uint8)


def save_indices(path: Path, indices: NDArray[np.integer], colors: NDArray[np.uint8]) -> None:
    """Write indices [H, W] as a palette PNG."""
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(colors.tobytes())
    image.save(path)


# --- videos -----------------------------------------------------------------------------------------------------------
def write_davis(out: Path, videos: Iterator[list[Scene]]) -> None:
    """The folder layout of DAVIS 2017: frames as JPEG, object ids as palette PNG."""
    names = []
    for number, video in enumerate(videos, 1):
        names.append(f"shapes-{number:02d}")
        frames, annotations = (out / kind / "480p" / names[-1] for kind in ("JPEGImages", "Annotations"))
        frames.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for time, scene in enumerate(video):
            Image.fromarray(scene.image).save(frames / f"{time:05d}.jpg", quality=95)
            save_indices(annotations / f"{time:05d}.png", scene.ids, palette(256).numpy())
    listing = out / "ImageSets" / "2017" / "val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
