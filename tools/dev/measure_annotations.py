"""Time and memory of annotation files at the size of real datasets, beside pycocotools.

    python tools/dev/measure_annotations.py --folder /tmp/annotations

Writes a file of COCO's size (118,000 images, 845,000 polygons) and two of Objects365's proportions (1 and 3 million
boxes), reads each in turns with pycocotools and with `CocoTable`, always in a new process, and prints a table.
"Private" is what a process keeps that no other process can share: the pages of a mapped file are in memory once.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pe_spatial.commands.options import CommandParser, positive
from pe_spatial.commands.shell import run_module
from pe_spatial.common.console import progress
from pe_spatial.common.files import write_json_stream

# images, objects, most points of a polygon (0: boxes alone), classes
SIZES = {
    "coco": (118_000, 845_000, 42, 80),
    "objects365-third": (66_667, 1_000_000, 0, 365),
    "objects365": (200_000, 3_000_000, 0, 365),
}
_READ = """
import json, sys, time
{imports}
def megabytes(file, name):
    with open(file) as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1e3
before = megabytes("/proc/self/smaps_rollup", "Anonymous")
clock, started = time.process_time(), time.perf_counter()
{read}
seconds, cpu = time.perf_counter() - started, time.process_time() - clock
peak = megabytes("/proc/self/status", "VmHWM")
private = megabytes("/proc/self/smaps_rollup", "Anonymous") - before
print(json.dumps({{"seconds": seconds, "cpu": cpu, "private": private, "peak": peak}}))
"""
_READERS = {
    "pycocotools": ("from pycocotools.coco import COCO", "kept = COCO(sys.argv[1])"),
    "first start": ("from pe_spatial.data.annotations import CocoTable", "kept = CocoTable(sys.argv[1])"),
    "second start": ("from pe_spatial.data.annotations import CocoTable", "kept = CocoTable(sys.argv[1])"),
    "dataset": (
        "from pe_spatial.detection.datasets import CocoInstances",
        "import pe_spatial.detection.datasets as module; module.find_absent = lambda paths: []  # there are no images\n"
        "kept = CocoInstances(ann_file=sys.argv[1], data_prefix={'img_path': '.'})",
    ),
}


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    parser.add_argument("--folder", type=Path, required=True, help="for the files (1 GB)")
    parser.add_argument("--rounds", type=positive, default=3, help="each reader is timed so often; the median counts")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of images and objects")


def run(options: argparse.Namespace) -> int:
    """Write, read and print."""
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ["PE_SPATIAL_CACHE"] = str(options.folder / "cache")
    for name, (images, objects, points, classes) in SIZES.items():
        path = options.folder / f"{name}-{options.scale:g}.json"
        if not path.exists():
            write_annotations(path, round(images * options.scale), round(objects * options.scale), points, classes)
        print(f"\n{name}: {path.stat().st_size / 1e6:.0f} MB; seconds, CPU seconds, private MB, peak MB")
        runs: dict[str, list[dict[str, float]]] = {reader: [] for reader in _READERS}
        for _ in range(options.rounds):
            for reader in _READERS:
                if reader == "first start":
                    path.touch()  # another state of the file: its table is made anew
                runs[reader].append(measure(reader, path))
        for reader, figures in runs.items():
            print(f"{reader:14}" + "".join(f"{np.median([f[key] for f in figures]):10.2f}" for key in figures[0]))
    return 0


def measure(reader: str, path: Path) -> dict[str, float]:
    """Read a file in a new process."""
    imports, read = _READERS[reader]
    code = _READ.format(imports=imports, read=read)
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def write_annotations(path: Path, images: int, objects: int, points: int, classes: int) -> None:
    """Write a file with as many fields as COCO's have."""
    write_json_stream(
        path,
        {
            "images": (_image(number) for number in range(images)),
            "annotations": _annotations(images, objects, points, classes),
            "categories": [{"id": n, "name": f"class {n}", "supercategory": "thing"} for n in range(1, classes + 1)],
        },
    )


def _image(number: int) -> dict[str, object]:
    name = f"{number:012d}.jpg"
    address = f"http://images.cocodataset.org/train2017/{name}"
    date = "2013-11-14 11:18:45"
    return {
        "license": 3,
        "file_name": name,
        "coco_url": address,
        "height": 480,
        "width": 640,
        "date_captured": date,
        "id": number,
    }


def _annotations(images: int, objects: int, points: int, classes: int) -> Iterator[dict[str, object]]:
    draw = np.random.default_rng(0)
    with progress("writing", objects, "objects") as bar:
        for number in range(objects):
            x, y, width, height = (draw.random(4) * [500, 350, 120, 120] + [0, 0, 8, 8]).round(2).tolist()
            entry: dict[str, object] = {
                "id": number + 1,
                "image_id": number * images // objects,
                "category_id": number % classes + 1,
                "bbox": [x, y, width, height],
                "area": round(width * height * 0.78, 4),
                "iscrowd": 0,
            }
            if points:
                angles = np.linspace(0, 2 * np.pi, int(draw.integers(8, points)), endpoint=False)
                outline = [x + width / 2 * (1 + np.cos(angles)), y + height / 2 * (1 + np.sin(angles))]
                entry["segmentation"] = [np.stack(outline, 1).round(2).ravel().tolist()]
            yield entry
            bar.advance()


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], __file__))
