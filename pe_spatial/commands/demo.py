"""Draw a small dataset with exact truth: detection, segmentation, depth and video in the formats of the real ones.

    python tools/make_demo_data.py demo/data --images 720 --size 128

    OUT/images/{train,val}/000001.jpg              one scene in six is for validation
    OUT/annotations/instances_{train,val}.json     coco: boxes and masks (RLE)
    OUT/labels/{train,val}/000001.png              labels: class indices wall, floor, disc, box, triangle
    OUT/classes.yaml                               labels: the names, colors and folders for SegmentationFolder
    OUT/annotations/panoptic_{train,val}.json      panoptic: COCO's format; wall and floor are stuff
    OUT/panoptic/{train,val}/000001.png            panoptic: ids of the segments
    OUT/depth/{train,val}/000001.png               depth: 16 bits, millimeters
    OUT/davis/{JPEGImages,Annotations}/480p/...    davis: videos with object ids, ImageSets/2017/val.txt
    OUT/demo.json                                  the arguments; written last, so it marks a complete dataset

Equal arguments give equal data; run again, a complete dataset is left as it is.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import Progress

from pe_spatial.data.loading import encode_mask
from pe_spatial.demo.scenes import (
    CLASSES,
    SEMANTIC_CLASSES,
    Scene,
    draw_scene,
    draw_video,
    load_photographs,
)
from pe_spatial.visualization import palette

FORMATS = ("coco", "labels", "panoptic", "depth", "davis")
SPLITS = ("train", "val")
MARKER = "demo.json"
# raised when the drawing or the layout changes, so that an older dataset is not taken for a current one
VERSION = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    options = parse_arguments(arguments)
    out: Path = options.out
    photographs = [] if options.no_photographs else load_photographs()
    description = {
        "version": VERSION,
        "images": options.images,
        "size": options.size,
        "seed": options.seed,
        "formats": options.formats,
        "videos": options.videos,
        "frames": options.frames,
        "video_size": options.video_size,
        "photographs": len(photographs),
    }
    if read_marker(out) == description:
        print(f"{out} is complete already: {options.images} images, seed {options.seed}")
        return 0
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not options.force):
        print(
            f"{out} holds something else; choose another folder, or replace its dataset with --force", file=sys.stderr
        )
        return 2
    partial = out.with_name(f".{out.name}.partial")  # a run that was killed leaves only this behind
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with Progress() as progress:
        if set(options.formats) - {"davis"}:
            scenes = draw_scenes(options.images, options.seed, options.size, photographs)
            write_scenes(partial, progress.track(scenes, total=options.images, description="scenes"), options.formats)
        if "davis" in options.formats:
            seeds = progress.track(
                [[options.seed, 1, number] for number in range(options.videos)], description="videos"
            )
            videos = (draw_video(seed, tuple(options.video_size), options.frames, photographs) for seed in seeds)
            write_davis(partial / "davis", videos)
    (partial / MARKER).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    move_into_place(partial, out)
    print(f"wrote {out}: {', '.join(options.formats)}")
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--images", type=int, default=720, help="scenes in all; every sixth is for validation (720)")
    parser.add_argument("--size", type=int, default=128, help="height and width of the scenes in pixels (128)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", type=formats, default=list(FORMATS), help=f"from {','.join(FORMATS)} (all)")
    parser.add_argument("--videos", type=int, default=3, help="videos in all, for davis (3)")
    parser.add_argument("--frames", type=int, default=20, help="frames of a video (20)")
    parser.add_argument("--video-size", type=int, nargs=2, default=[240, 426], metavar=("H", "W"), help="(240 426)")
    parser.add_argument(
        "--no-photographs", action="store_true", help="procedural textures only, also with scikit-image"
    )
    parser.add_argument("--force", action="store_true", help="replace the dataset in OUT; other files there are kept")
    options = parser.parse_args(arguments)
    if options.images < 6 and set(options.formats) - {"davis"}:
        parser.error(f"--images {options.images}: 6 or more are needed, for every sixth is for validation")
    if min(options.size, *options.video_size) < 32:
        parser.error("--size and --video-size must be 32 pixels or more, or shapes cannot be told apart")
    if min(options.seed, options.videos, options.frames - 1) < 0:
        parser.error("--seed and --videos must not be negative, --frames must be 1 or more")
    return options


def formats(text: str) -> list[str]:
    chosen = text.split(",")
    for name in chosen:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(FORMATS)}")
    return [name for name in FORMATS if name in chosen]


def read_marker(out: Path) -> dict[str, Any] | None:
    try:
        return json.loads((out / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def move_into_place(partial: Path, out: Path) -> None:
    """Rename the finished folder; into a folder that holds something, entry by entry with the marker last."""
    if not out.exists() or not any(out.iterdir()):
        partial.replace(out)
        return
    (out / MARKER).unlink(missing_ok=True)
    for entry in sorted(partial.iterdir(), key=lambda path: path.name == MARKER):
        target = out / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        entry.replace(target)
    partial.rmdir()


# --- single images ----------------------------------------------------------------------------------------------------
def draw_scenes(count: int, seed: int, size: int, photographs: list[NDArray[np.uint8]]) -> Iterator[Scene]:
    for number in range(count):
        yield draw_scene([seed, 0, number], size, photographs)


def write_scenes(out: Path, scenes: Iterator[Scene], formats: Sequence[str]) -> None:
    """Images, and of them the truth in each of the formats. Image ids count the scenes from 1 over both splits."""
    folders = ["images", *(name for name in ("labels", "panoptic", "depth") if name in formats)]
    for folder in folders:
        for split in SPLITS:
            (out / folder / split).mkdir(parents=True)
    coco = {split: empty_coco() for split in SPLITS}
    panoptic = {split: empty_panoptic() for split in SPLITS}
    for number, scene in enumerate(scenes, 1):
        split, name = SPLITS[number % 6 == 0], f"{number:06d}"
        Image.fromarray(scene.image).save(out / "images" / split / f"{name}.jpg", quality=95)
        if "labels" in formats:
            save_indices(out / "labels" / split / f"{name}.png", scene.semantic, class_colors(256))
        if "depth" in formats:
            millimeters = (1000 * scene.depth).round().astype(np.uint16)
            Image.fromarray(millimeters).save(out / "depth" / split / f"{name}.png")
        if "panoptic" in formats:
            ids = add_to_panoptic(panoptic[split], number, name, scene)
            Image.fromarray(ids).save(out / "panoptic" / split / f"{name}.png")
        add_to_coco(coco[split], number, f"{name}.jpg", scene)
    for kind, key, contents in (("instances", "coco", coco), ("panoptic", "panoptic", panoptic)):
        if key in formats:
            (out / "annotations").mkdir(exist_ok=True)
            for split, content in contents.items():
                path = out / "annotations" / f"{kind}_{split}.json"
                path.write_text(json.dumps(content), encoding="utf-8")
    if "labels" in formats:
        (out / "classes.yaml").write_text(class_list(), encoding="utf-8")


def class_colors(count: int) -> NDArray[np.uint8]:
    """Colors of the classes [count, 3]; black is left for pixels without a label."""
    return np.concatenate([palette(count)[1:].numpy(), np.zeros((1, 3), np.uint8)])


def class_list() -> str:
    """The description that SegmentationFolder reads."""
    colors = class_colors(len(SEMANTIC_CLASSES) + 1).tolist()
    lines = [f"  {name}: {color}" for name, color in zip(SEMANTIC_CLASSES, colors, strict=False)]
    folders = [f"{kind}: {{{', '.join(f'{s}: {kind}/{s}' for s in SPLITS)}}}" for kind in ("images", "labels")]
    return "\n".join(["classes:", *lines, *folders, ""])


def category_id(name: str) -> int:
    """The same in instances and panoptic segments, so that masks of the one can be scored against the other."""
    return SEMANTIC_CLASSES.index(name) + 1


def empty_coco() -> dict[str, list[Any]]:
    categories = [{"id": category_id(name), "name": name, "supercategory": "shape"} for name in CLASSES]
    return {"images": [], "annotations": [], "categories": categories}


def add_to_coco(coco: dict[str, list[Any]], image_id: int, file_name: str, scene: Scene) -> None:
    height, width = scene.camera.size
    coco["images"].append({"id": image_id, "file_name": file_name, "height": height, "width": width})
    for label, box, mask in zip(scene.labels, scene.boxes.tolist(), scene.masks, strict=True):
        x1, y1, x2, y2 = box
        coco["annotations"].append(
            {
                "id": len(coco["annotations"]) + 1,
                "image_id": image_id,
                "category_id": category_id(CLASSES[label]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(mask.sum()),
                "segmentation": encode_mask(mask),
                "iscrowd": 0,
            }
        )


def empty_panoptic() -> dict[str, list[Any]]:
    things = len(SEMANTIC_CLASSES) - len(CLASSES)
    categories = [
        {"id": category_id(name), "name": name, "isthing": int(number >= things), "color": color}
        for number, (name, color) in enumerate(
            zip(SEMANTIC_CLASSES, class_colors(len(SEMANTIC_CLASSES) + 1).tolist(), strict=False)
        )
    ]
    return {"images": [], "annotations": [], "categories": categories}


def add_to_panoptic(panoptic: dict[str, list[Any]], image_id: int, name: str, scene: Scene) -> NDArray[np.uint8]:
    """Describe the visible segments: the objects, numbered from 1, and above them wall and floor. Returns the PNG."""
    height, width = scene.camera.size
    stuff = len(scene.labels) + 1 + scene.semantic.astype(np.int64)
    ids = np.where(scene.ids > 0, scene.ids, stuff)  # [H, W]
    present, first, counts = np.unique(ids, return_index=True, return_counts=True)
    segments = [
        {"id": int(n), "category_id": int(label) + 1, "area": int(area), "iscrowd": 0}
        for n, label, area in zip(present, scene.semantic.ravel()[first], counts, strict=True)
    ]
    panoptic["images"].append({"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width})
    panoptic["annotations"].append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments})
    return np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], axis=-1).astype(np.uint8)


def save_indices(path: Path, indices: NDArray[np.integer], colors: NDArray[np.uint8]) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
