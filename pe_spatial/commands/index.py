"""Make pictures and videos searchable by words: write their embeddings into one file.

    pe-spatial index photos --encoder PE-Core-B16-224 --output INDEX
    pe-spatial index photos --encoder PE-Core-B16-224 --weights FILE --output INDEX --batch-size 32 --dtype fp16
    pe-spatial index 'clips/*.mp4' --encoder RUN --output INDEX --every 5
    pe-spatial index clips --encoder PE-Core-L14-336 --output INDEX --video-rows retrieval

The encoder is a released PE-Core, or a folder such as `pe-spatial demo --words` writes. INDEX/embeddings.npy has a row
for each picture, and INDEX/rows.jsonl says in the same line which one. Of a video there is a row for a frame every
second (--every), with its time; or one row of 8 frames by an official definition (--video-rows): `classification`, or
`retrieval`, the mean of normalized frames, not normalized again. INDEX/index.json records the encoder and the settings.

`pe-spatial search INDEX "a red bicycle"` searches it.

Run the same command again to continue: it does only what is missing. New and changed pictures are added,
missing ones are removed, and the command prints how many. torchrun splits the work over its
processes, and --shard splits it over independent jobs.

Exit status: 0 done, 1 some files failed (the rest is done; they are named at the end and in INDEX/failed.json), 2 a
mistake in the command or the files, 130 interrupted (what was done is written).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pe_spatial.commands.encoder_options import add_core
from pe_spatial.commands.features import extract
from pe_spatial.commands.options import SHARED, add_shared, number_in, positive
from pe_spatial.commands.predict import find_files, finish, is_first, part_of

if TYPE_CHECKING:
    from pe_spatial.common.records import Part
    from pe_spatial.common.sources import Entry
    from pe_spatial.search.encoder import IndexEmbedder

RESUMES = "run the same command again to continue"
VIDEO_ROWS = ("frames", "classification", "retrieval")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("input", metavar="DIR", help=SHARED["--input"]["help"])
    add_core(parser)
    add_shared(parser, "--output", required=["--output"])
    add(
        "--video-rows",
        choices=VIDEO_ROWS,
        default=VIDEO_ROWS[0],
        help="rows of a video: one per frame, or one by a rule",
    )
    add("--every", type=number_in(0, 1e6), default=1.0, metavar="S", help="seconds between frames; 0 uses all frames")
    add("--frames", type=positive, default=8, metavar="N", help="frames of a video that is one row, from first to last")
    add("--dtype", choices=("fp32", "fp16"), default="fp32", help="of the file")
    add_shared(parser, "--batch-size", "--limit", "--device", "--max-pixels", "--shard")
    parser.set_defaults(batch_size=8, no_pictures=True)


def run(options: argparse.Namespace) -> int:
    """Index everything; returns the exit status."""
    from pe_spatial.search.encoder import IndexEmbedder, open_model

    part = part_of(options)
    found, left_out = find_files(options)
    model = open_model(options.encoder, options.weights, options.device)
    settings = (options.batch_size, options.video_rows, options.every, options.frames, options.max_pixels)
    embedder = IndexEmbedder(model, *settings)
    failed = write_index(embedder, found, part, options)
    wrote = f"wrote {options.output / 'index.json'}, embeddings.npy and rows.jsonl"
    return finish([wrote], failed, options.output, left_out)


def write_index(
    embedder: IndexEmbedder, found: Mapping[str, Entry], part: Part, options: argparse.Namespace
) -> dict[str, str]:
    """Do what is missing of the index of some files.

    Args:
        embedder: Makes the rows.
        found: All files of the input, by their names.
        part: Of the files, that this process does.
        options: Of the command.

    Returns:
        Why files failed, by their names, those of all processes.
    """
    from pe_spatial.common.names import output_stems
    from pe_spatial.common.records import Records
    from pe_spatial.common.sources import source_root
    from pe_spatial.features.plan import bundles_of
    from pe_spatial.search.writer import IndexWriter, changes_of, identity_of

    root = source_root(options.input).resolve()
    records = Records(options.output, identity_of(embedder, options.encoder, root, options.dtype), part)
    changes = changes_of(records, {name: entry.file for name, entry in found.items()})
    source = {"input": str(root), "open": _reopening(options)}
    writer = IndexWriter(records, output_stems(found), options, embedder, source)
    writer.forget_vanished(changes)
    if is_first():
        print("\n".join(changes.lines()), end="\n" if changes.known else "")
    files = dict(islice(found.items(), options.limit))
    side = embedder.model.image_size
    sizes = {name: (side, side) for name, entry in files.items() if entry.kind == "image"}
    bundles = part.of(bundles_of(files, sizes, embedder.batch_size, 1))
    return extract(embedder, writer, bundles, files, None if options.video_rows == "frames" else len)


def _reopening(options: argparse.Namespace) -> dict[str, Any]:
    """What search opens the encoder with; folders and files by their whole paths."""

    def whole(name: str | None) -> str | None:
        path = Path(name).expanduser() if name else None
        return str(path.resolve()) if path is not None and path.exists() else name

    return {"encoder": whole(options.encoder), "weights": whole(options.weights)}
