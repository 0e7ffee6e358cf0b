"""Score the result PNGs of any tracker: DAVIS's J and F with mean, recall and decay, per object and overall.

    python tools/score_tracking.py --results OUT --annotations DAVIS/Annotations/480p --videos DAVIS/.../val.txt
    python tools/score_tracking.py --results OUT --annotations DAVIS2016/Annotations/480p --binary
    python tools/score_tracking.py --results OUT --config tracking/dino_pe_spatial_b16_davis2017 [key=value ...]

Results are OUT/NAME/00000.png, palette or grayscale, at the size of the annotations and with their names and object
numbers. As in the official semi-supervised evaluation the first and the last frame of a video do not count.

Exit status: 0 done, 2 a mistake in the command or the files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS
from rich.console import Console
from rich.progress import track

from pe_spatial.common.errors import UserError
from pe_spatial.common.files import write_json
from pe_spatial.data.loading import list_images
from pe_spatial.tracking.datasets import read_names
from pe_spatial.tracking.metrics import score_folder
from pe_spatial.tracking.scores import ScoreTable
from pe_spatial.training.config import load_config

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    options = parse_arguments(arguments)
    try:
        records = list(read_dataset(options) if options.config else read_annotations(options))
        scores = []
        for record in track(records, description="scoring", console=console):
            scores += score_folder(record, options.results / record["video"]).results()
        table = ScoreTable(scores)
        if not table.rows:
            raise UserError("no frame to score: videos need at least three annotated frames")
        print(table)
        if options.output:
            write_json(options.output, table.as_dict())
    except (UserError, ValueError, OSError) as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    return 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--results", required=True, type=Path, help="folder with a folder of PNGs per video")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--annotations", type=Path, help="folder with a folder of true PNGs per video")
    source.add_argument("--config", help="config whose data set (test_dataloader) has the annotations")
    add("--videos", type=Path, help="a list of names, one per line; default: every folder of --annotations")
    add("--binary", action="store_true", help="everything above 0 is one object (DAVIS 2016)")
    add("--output", type=Path, help="a JSON file for the scores")
    add("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    options = parser.parse_intermixed_args(arguments)
    if options.overrides and not options.config:
        parser.error(f"{options.overrides[0]}: overrides belong to --config")
    return options


def read_dataset(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    dataset = DATASETS.build(load_config(options.config, options.overrides).test_dataloader.dataset)
    return (dataset.get_data_info(index) for index in range(len(dataset)))


def read_annotations(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A record per video; its objects are those of its first annotation."""
    root: Path = options.annotations
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; --annotations holds a folder of PNGs per video")
    names = read_names(options.videos) if options.videos else sorted(p.name for p in root.iterdir() if p.is_dir())
    for name in names:
        paths = list_images(root / name)
        first = {"path": paths[0], "binary": options.binary}
        yield {
            "video": name,
            "frame_paths": paths,
            "annotation_paths": paths,
            "prompts": {0: first},
            "binary": options.binary,
        }


if __name__ == "__main__":
    sys.exit(main())
