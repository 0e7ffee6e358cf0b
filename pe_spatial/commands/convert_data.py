"""Convert a dataset of boxes and masks between formats: COCO, YOLO, Pascal VOC; LabelMe and Label Studio are read too.

    pe-spatial convert data my_cvat_export my_yolo --to yolo
    pe-spatial convert data my_yolo/data.yaml my_coco --to coco --pictures copy
    pe-spatial convert data my_coco my_voc --to voc --allow-loss

The command prints what it recognized: splits, images, objects and classes. It counts what the format cannot store, and
stops unless --allow-loss is given. Everything else is equal after converting back. Nothing is overwritten.
"""

import argparse
from pathlib import Path

from pe_spatial.commands.options import CommandParser


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("input", metavar="IN", type=Path, help="a folder, or the file that describes the dataset")
    add("output", metavar="OUT", type=Path, help="a new folder")
    add("--to", required=True, choices=("coco", "yolo", "voc"), help="format to write")
    add("--format", metavar="NAME", help="format of IN, if it can be read in several ways")
    add("--split", metavar="NAME", help="convert this part only; default: all")
    add(
        "--pictures",
        choices=("link", "copy", "keep"),
        default="link",
        help="link to the present pictures, copy them, or keep them where they are",
    )
    add("--allow-loss", action="store_true", help="write although the format cannot store everything")


def run(options: argparse.Namespace) -> int:
    """Convert, and say what was recognized, lost and written."""
    from pe_spatial.common.console import print_warning
    from pe_spatial.data.formats import choose
    from pe_spatial.data.formats.writing import write_dataset

    reading = choose(options.input, options.format)
    print(f"{reading.path}: {reading.about}")
    splits = [options.split] if options.split else reading.splits
    content = {split: reading.instances(split) for split in splits}
    for split, part in content.items():
        print(f"  {split}: {part.summary()}")
        for note in part.notes:
            print_warning(f"{split}: {note}")
    lost = write_dataset(content, options.output, options.to, options.pictures, options.allow_loss)
    for line in lost:
        print_warning(f"lost in {options.to}: {line}")
    where = {"link": "links to the pictures", "copy": "copies of the pictures"}.get(options.pictures)
    kept = f"; the pictures stay in {', '.join(sorted({str(part.image_root) for part in content.values()}))}"
    print(f"Wrote {options.to} to {options.output}" + (f", with {where}." if where else f"{kept}."))
    return 0
