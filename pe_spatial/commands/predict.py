"""Run a trained model over images, folders and videos.

    pe-spatial predict --checkpoint work_dirs/NAME --input photo.jpg --output OUT
    pe-spatial predict --checkpoint model.pth --input 'photos/**/*.jpg' --output OUT --threshold 0.3
    pe-spatial predict --checkpoint model.pth --input street.mp4 --output OUT
    pe-spatial predict --checkpoint model.pth --input aerial.tif --output OUT --slices 640
    pe-spatial predict --checkpoint model.pth --input photos --output OUT model.tta='{sizes: [1024, 1280]}'
    pe-spatial predict --checkpoint model.onnx --input photos --output OUT --engine openvino
    pe-spatial predict --checkpoint det=RUN1 --checkpoint seg=RUN2 --input photos --output OUT
    torchrun --nproc-per-node 8 tools/predict.py --checkpoint model.pth --input photos --output OUT
    pe-spatial predict --checkpoint model.pth --input photos --output OUT --shard 3/16
    pe-spatial predict --encoder PE-Core-L14-336 --words "road, sky, tree" --input photos --output OUT
    pe-spatial predict --encoder PE-Core-L14-336 --words "mug, plate" --checkpoint RUN --input photos --output OUT

OUT/pictures mirrors the input and shows the predictions: a picture per image, a video per video. Detections are all in
OUT/predictions.json in COCO's format; depth is in 16-bit PNG files and OUT/depth.json; classes of pixels are in
OUT/labels, an indexed PNG per image, and their areas in OUT/segmentation.json.

Several checkpoints on one frozen encoder share its pass (docs/shared_pass.md): each picture is read once, the results
of each are in OUT/NAME, a `key=value` begins with the name of its model (seg.model.window=null), and a picture is
finished when it is for all of them. The command first prints what cannot be shared.

Run the same command again to continue: it does only what is missing. torchrun splits the files over its
processes (and adds its own report of a failure where the exit status is not 0), and --shard splits them over
independent jobs; the list is complete when the last of them has ended.

Exit status: 0 done, 1 some files failed (the rest is done; they are named at the end and in OUT/failed.json), 2 a
mistake in the command or the files, 130 interrupted (what was done is written).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pe_spatial.commands import predict_words
from pe_spatial.commands.options import SHARED, CommandParser, add_shared, positive
from pe_spatial.commands.task_options import TASK_OPTIONS, add_task_option
from pe_spatial.common.console import print_note, progress
from pe_spatial.common.errors import OptionError, printable
from pe_spatial.common.names import check_folder_names

if TYPE_CHECKING:
    from pe_spatial.common.records import Part
    from pe_spatial.common.sources import Entry
    from pe_spatial.inference.stream import Prediction, Streamed
    from pe_spatial.inference.write_ahead import Writes

RESUMES = "run the same command again to continue"
SHOWN_FAILURES = 20
MUST_SHARE = ("pass", "encoder", "nothing")  # as in pe_spatial.inference.shared, which loads torch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--checkpoint",
        metavar="[NAME=]PATH",
        type=named_path,
        action="append",
        default=[],
        help=f"{SHARED['--checkpoint']['help']}; several, each with a name, share one encoder",
    )
    add_shared(parser, "--input", "--output", required=("--input", "--output"))
    add_shared(
        parser,
        "--batch-size",
        "--limit",
        "--device",
        "--engine",
        "--precision",
        "--image-size",
        "--max-pixels",
        "--no-pictures",
        "--shard",
    )
    parser.add_argument(
        "--picture-size",
        type=positive,
        metavar="PIXELS",
        help="longer side of drawn pictures at most; larger photographs are reduced by a whole factor (default: 2048)",
    )
    add_shared(parser, "--allow-import", "overrides")
    ends, colors = ("BLACK", "WHITE"), "of pictures of four or more bands (e.g. 4 3 2), or of gray: numbers from 1"
    parser.add_argument(
        "--value-range", type=float, nargs=2, metavar=ends, help="value range of pictures with more than 8 bits"
    )
    parser.add_argument("--bands", type=positive, nargs="+", metavar="N", help=f"red, green and blue {colors}")
    parser.add_argument(
        "--must-share",
        choices=MUST_SHARE,
        default=MUST_SHARE[1],
        help="what several models must have in common: one pass of the encoder, the encoder, or nothing",
    )
    for name in TASK_OPTIONS:
        add_task_option(parser, name)
    predict_words.add_arguments(parser)


def named_path(text: str) -> tuple[str | None, Path]:
    """`NAME=PATH`, or a path alone, which may have such a sign in it."""
    name, sign, path = text.partition("=")
    if not sign or Path(text).exists():
        return None, Path(text)
    if "/" in name or not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a file or folder, nor NAME=PATH (a name has no slash)")
    return name, Path(path)


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """There are words or checkpoints; several of these have names, which name the folders of their results."""
    predict_words.check(options, parser)
    if not options.checkpoint:
        return
    names = [name for name, _ in options.checkpoint if name is not None]
    paths = [str(path) for name, path in options.checkpoint if name is None]
    if paths and len(options.checkpoint) > 1:
        parser.error(f"several checkpoints need a name each: --checkpoint NAME={paths[0]}")
    try:
        check_folder_names(names)
    except OptionError as error:
        parser.error(f"argument --checkpoint: {error}")
    if names and options.engine not in (None, "torch"):
        parser.error(f"--engine {options.engine} runs one model; several share an encoder, which torch runs")
    if not names and options.must_share != MUST_SHARE[1]:
        parser.error(f"--must-share {options.must_share} is for several models: --checkpoint NAME={paths[0]} …")


def run(options: argparse.Namespace) -> int:
    """Predict everything; returns the exit status."""
    from pe_spatial.commands.predict_models import find_models, open_models
    from pe_spatial.common.names import output_stems

    part = part_of(options)
    models = find_models(options, part)
    files, left_out = find_files(options)
    predictor, writer, results = open_models(models, output_stems(files), options.must_share)
    names = list(files)[: options.limit]
    failed = predict(predictor, writer, {name: files[name] for name in part.of(names)})
    wrote = [f"wrote {result}{pictures_in(result.parent, options)}" for result in results]
    return finish(wrote, failed, results[0].parent, left_out)


def find_files(options: argparse.Namespace) -> tuple[dict[str, Entry], str]:
    """The files of the input by their names in the results, and what is left out; not those of the output."""
    from pe_spatial.common.sources import outside, resolve_sources

    sources = resolve_sources(options.input)
    return {entry.name: entry for entry in outside(sources, options.output)}, sources.warning


def part_of(options: argparse.Namespace) -> Part:
    """Which files this process does, of all processes and shards."""
    from pe_spatial.common.records import Part
    from pe_spatial.training.distributed import join_processes

    number, count = options.shard or (1, 1)
    return Part(*join_processes()).within(Part(number - 1, count))


def is_first() -> bool:
    """Whether this is the process that speaks for all that torchrun has started."""
    from torch import distributed

    return not distributed.is_initialized() or distributed.get_rank() == 0


def predict(
    predictor: Streamed,
    writer: Writes,
    files: Mapping[str, Entry],
    count: Callable[[Sequence[Entry]], int | None] | None = None,
) -> dict[str, str]:
    """Do what is missing of some files and write the lists.

    Args:
        predictor: Of the task.
        writer: Of the task.
        files: By their names.
        count: How many predictions files have, for the bar; None: one for each picture and each frame of a video.

    Returns:
        Why files failed, by their names, those of all processes.
    """
    from pe_spatial.inference.stream import count_pictures, stream
    from pe_spatial.inference.write_ahead import write_all

    with keeping_results(writer):
        names = writer.plan({name: entry.file for name, entry in files.items()})
        if len(names) < len(files) and is_first():
            print(f"{len(files) - len(names)} of {len(files)} files were done by an earlier run")
        todo = [files[name] for name in names]
        name_of = {entry.path: entry.name for entry in todo}.__getitem__
        # closed whatever happens, or its threads would wait for this one
        with closing(stream(predictor, todo)) as predictions:
            failed = write_all(shown(predictions, (count or count_pictures)(todo)), writer, name_of)
        return gather(failed)


@contextmanager
def keeping_results(writer: Writes) -> Iterator[None]:
    """Write the lists when the block ends; what was finished is in them also when it is interrupted."""
    try:
        yield
        if is_first():
            writer.close()
        else:
            writer.leave()
    except BaseException:  # also Ctrl-C: what was predicted is kept
        with suppress(OSError):  # a disk that is full for the list too
            writer.close()
        raise


def gather(failed: dict[str, str]) -> dict[str, str]:
    """Wait for all processes; the failures of them all."""
    from mmengine.dist import all_gather_object

    return dict(sorted(item for each in all_gather_object(failed) for item in each.items()))


def shown(predictions: Iterator[Prediction], total: int | None) -> Iterator[Prediction]:
    """Show how many are done; of several processes only the first does."""
    with progress("", total, "images", shown=is_first() and total != 0) as bar:
        for prediction in predictions:
            yield prediction
            bar.advance(description=prediction.source.path.name)


def pictures_in(output: Path, options: argparse.Namespace) -> str:
    """What to add of the pictures, if there are any, to what was written into a folder."""
    return "" if options.no_pictures else f" and pictures to {output / 'pictures'}"


def finish(lines: Iterable[str], failed: Mapping[str, str], output: Path, left_out: str) -> int:
    """Let the first process say how it ended; returns the exit status.

    Args:
        lines: What was written.
        failed: Why files failed, by their names.
        output: The folder of the results.
        left_out: Of the input.
    """
    if is_first():
        for line in lines:
            print(line)
        report(failed, output)
        if left_out:
            print_note(left_out)
    return 1 if failed else 0


def report(failed: Mapping[str, str], output: Path) -> None:
    """Name what failed."""
    named = ((printable(name), reason) for name, reason in failed.items())
    lines: Sequence[str] = [reason if name in reason else f"{name}: {reason}" for name, reason in named]
    for line in lines[:SHOWN_FAILURES]:
        print_note(f"not read or predicted: {line}")
    if len(lines) > SHOWN_FAILURES:
        print_note(f"and {len(lines) - SHOWN_FAILURES} more; all are in {output / 'failed.json'}")
