"""Score the result PNGs of any tracker: DAVIS's J and F with mean, recall and decay, per object and overall.

    pe-spatial score --input RESULTS --annotations DAVIS/Annotations/480p --videos DAVIS/.../val.txt
    pe-spatial score --input RESULTS --annotations DAVIS2016/Annotations/480p --binary
    pe-spatial score --input RESULTS --config tracking/dino_pe_spatial_b16_davis2017 [key=value ...]

Results are RESULTS/NAME/00000.png, palette or grayscale, at the size of the annotations and with their names and object
numbers. As in the official semi-supervised evaluation the first and the last frame of a video do not count.

Exit status: 0 done, 2 a mistake in the command or the files.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pe_spatial.commands.options import CommandParser, add_shared
from pe_spatial.common.console import track
from pe_spatial.common.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("--input", required=True, type=Path, metavar="PATH", help="folder with a folder of PNGs per video")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--annotations", type=Path, metavar="PATH", help="folder with a folder of annotated PNGs per video"
    )
    source.add_argument("--config", metavar="NAME", help="config whose dataset (test_dataloader) has the annotations")
    add("--videos", type=Path, metavar="FILE", help="a list of names, one per line; default: every folder")
    add("--binary", action="store_true", help="everything above 0 is one object (DAVIS 2016)")
    add("--output", type=Path, metavar="FILE", help="a JSON file for the scores")
    add_shared(parser, "--allow-import", "overrides")
    parser.add_old_spellings({"--results": "--input"})


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """Refuse options that contradict each other."""
    if options.overrides and not options.config:
        parser.error(f"{options.overrides[0]}: overrides belong to --config")


def run(options: argparse.Namespace) -> int:
    """Score every video and print the table."""
    from pe_spatial.common.files import write_json
    from pe_spatial.tracking.metrics import score_folder
    from pe_spatial.tracking.scores import ScoreTable
    from pe_spatial.training.config import load_config

    if options.config:
        records = dataset_records(options.config, load_config(options.config, options.overrides))
    else:
        records = list(read_annotations(options))
    scores = []
    for record in track(records, "scoring", unit="videos"):
        scores += score_folder(record, options.input / record["video"]).results()
    table = ScoreTable(scores)
    if not table.rows:
        raise UserError("no frame to score: videos need at least three annotated frames")
    print(table)
    if options.output:
        write_json(options.output, table.as_dict())
    return 0


def dataset_records(name: str, config: "Config") -> list[dict[str, Any]]:
    """A record per video of the dataset of a config.

    Raises:
        UserError: There is none.
    """
    from mmengine.registry import DATASETS

    from pe_spatial.training.config_checks import require_dataset_types
    from pe_spatial.training.start import naming_mistakes

    if "test_dataloader" not in config:
        raise UserError(f"{name} has no dataset (test_dataloader); give a config with one, or give the files")
    require_dataset_types(config, "test_dataloader")
    with naming_mistakes():
        dataset = DATASETS.build(config.test_dataloader.dataset)
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def read_annotations(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A record per video; its objects are those of its first annotation that holds any."""
    from pe_spatial.data.annotations import file_below
    from pe_spatial.data.images import find_images
    from pe_spatial.tracking.datasets import read_names
    from pe_spatial.tracking.masks import first_with_objects, holds_numbers

    root: Path = options.annotations
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; --annotations must contain one folder of PNGs per video")
    names = read_names(options.videos) if options.videos else sorted(p.name for p in root.iterdir() if p.is_dir())
    for name in names:
        paths = find_images(file_below(root, name, str(options.videos)), recursive=False)
        binary = True if options.binary else False if holds_numbers(paths) else None
        first = first_with_objects(paths, binary) or 0
        yield {
            "video": name,
            "frame_paths": paths,
            "annotation_paths": paths,
            "prompts": {first: {"path": paths[first], "binary": binary}},
            "binary": binary,
        }
