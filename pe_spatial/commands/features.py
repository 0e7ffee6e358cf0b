"""Write the features of an encoder to files: of pictures, folders, tar files and videos.

    pe-spatial features --encoder PE-Spatial-B16-512 --input photos --output OUT --layers 5,8,11
    pe-spatial features --encoder PE-Core-B16-224 --input list.txt --output OUT --pool attention --format npy
    pe-spatial features --checkpoint work_dirs/NAME --input street.mp4 --output OUT --pool mean
    pe-spatial features --encoder PE-Spatial-B16-512 --weights FILE --input 'shards/*.tar' --output OUT --format tar
    torchrun --nproc-per-node 8 -m pe_spatial features --encoder PE-Spatial-B16-512 --input photos --output OUT
    pe-spatial features --encoder PE-Spatial-B16-512 --input photos --output OUT --shard 3/16

OUT/features holds a file for each picture (safetensors, npy) or tar files as WebDataset reads them; OUT/features.zarr
holds arrays of Zarr. Each says what was computed: the encoder with a hash of its weights, layers, size, grid and
normalization. OUT/features.json lists all; `pe_spatial.open_features(OUT)` reads every format.

Run the same command again to continue: it does only what is missing, and the files are equal to those of an
uninterrupted run. torchrun splits the work over its processes, and --shard splits it over independent jobs.

Exit status: 0 done, 1 some files failed (the rest is done; they are named at the end and in OUT/failed.json), 2 a
mistake in the command or the files, 130 interrupted (what was done is written).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

from pe_spatial.commands.encoder_options import add_encoder, check_encoder, open_extractor
from pe_spatial.commands.options import CommandParser, add_shared, positive
from pe_spatial.commands.predict import find_files, finish, gather, is_first, keeping_results, part_of, shown
from pe_spatial.common.console import progress

if TYPE_CHECKING:
    from pe_spatial.common.records import Part
    from pe_spatial.common.sources import Entry
    from pe_spatial.features import FeatureExtractor
    from pe_spatial.features.plan import Bundle
    from pe_spatial.features.writer import Extracting, FeatureWriter

RESUMES = "run the same command again to continue"
POOLS = ("none", "mean", "cls", "attention")
_MOST_READERS = 8


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add_encoder(parser)
    add_shared(parser, "--input", "--output", required=["--input", "--output"])
    add_shared(parser, "--image-size", "--batch-size", "--limit", "--device", "--max-pixels", "--shard")
    add_shared(parser, "--allow-import")
    parser.set_defaults(batch_size=8, no_pictures=True)
    add("--norm", action="store_true", help="apply the encoder's final norm, if it has one, to every layer")
    add("--resize", choices=("shorter", "longer", "square"), default="shorter", help="which side --image-size is")
    add("--pool", choices=POOLS, default="none", help="one vector a picture: mean, class token, or PE-Core's own")
    add("--form", choices=("maps", "tokens"), default="maps", help="without pooling: [C, h, w] or [h * w, C]")
    add("--dtype", choices=("fp16", "bf16", "fp32"), default="fp16", help="of the features")
    add("--precision", choices=("fp16", "bf16", "fp32"), default="fp32", help="in which the encoder computes")
    add("--format", choices=("safetensors", "npy", "zarr", "tar"), default="safetensors", help="of the files")
    add("--tar-pictures", type=positive, default=512, metavar="N", help="pictures a tar; a kill costs at most one tar")


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """Refuse options that contradict each other."""
    check_encoder(options, parser)
    if options.pool != "none" and options.form != "maps":
        parser.error(f"--form {options.form} is of whole maps, and --pool {options.pool} leaves none")


def run(options: argparse.Namespace) -> int:
    """Extract everything; returns the exit status."""
    from pe_spatial.features.writer import LIST, check_format

    part = part_of(options)
    found, left_out = find_files(options)
    files = dict(islice(found.items(), options.limit))
    extractor = open_extractor(
        options,
        pool=options.pool,
        form=options.form,
        norm=options.norm,
        resize=options.resize,
        dtype=options.dtype,
        precision=options.precision,
        batch_size=options.batch_size,
    )
    check_format(options.format, extractor)
    failed = write_features(extractor, files, part, options)
    return finish([f"wrote {options.output / LIST}"], failed, options.output, left_out)


def write_features(
    extractor: FeatureExtractor, files: Mapping[str, Entry], part: Part, options: argparse.Namespace
) -> dict[str, str]:
    """Write the features of a part of some files into `options.output`.

    Returns:
        Why files failed, by their names, those of all processes.
    """
    from pe_spatial.common.names import output_stems
    from pe_spatial.common.records import Records
    from pe_spatial.features.plan import bundles_of, targets_of
    from pe_spatial.features.writer import identity_of, open_writer

    identity = identity_of(options.format, extractor, files, options.tar_pictures)
    records = Records(options.output, identity, part)
    with progress("sizes", len(files), "images", shown=is_first()) as bar:
        targets = targets_of(files, extractor.sizing, bar.advance)
    size = options.tar_pictures if options.format == "tar" else 1
    bundles = bundles_of(files, targets, extractor.batch_size, size)
    writer = open_writer(records, options, extractor, output_stems(files), targets)
    return extract(extractor, writer, part.of(bundles), files)


def extract(
    extractor: Extracting,
    writer: FeatureWriter,
    bundles: Sequence[Bundle],
    files: Mapping[str, Entry],
    count: Callable[[Sequence[Entry]], int | None] | None = None,
) -> dict[str, str]:
    """Do what is missing of some bundles and write the list.

    Args:
        extractor: Makes the features.
        writer: Takes them.
        bundles: Of this process.
        files: By their names.
        count: How many features files have, for the bar; None: one for each picture and each frame of a video.

    Returns:
        Why files failed, by their names, those of all processes.
    """
    import torch

    from pe_spatial.features.writer import named
    from pe_spatial.inference.stream import count_pictures, stream_batches
    from pe_spatial.inference.write_ahead import write_all

    with keeping_results(writer):
        left = writer.begin(bundles, files)
        todo = [[files[name] for name in batch] for bundle in left for batch in bundle.batches]
        entries = [entry for batch in todo for entry in batch]
        done = sum(len(bundle.names) for bundle in bundles) - len(entries)
        if done and is_first():
            print(f"{done} files were done by an earlier run")
        names = {entry.path: entry.name for entry in entries}
        total = (count or count_pictures)(entries)
        readers = max(2, min(_MOST_READERS, torch.get_num_threads() // 2))
        # closed whatever happens, or its threads would wait for this one
        with closing(stream_batches(extractor, todo, readers)) as predictions:
            seen = shown(named(predictions, names), total)
            failed = write_all(seen, writer, names.__getitem__, most=2 * extractor.batch_size)
        return gather(failed)
