"""Run a trained model over images, folders and videos.

    pe-spatial predict --checkpoint work_dirs/NAME --input photo.jpg --output OUT
    pe-spatial predict --checkpoint model.pth --input 'photos/**/*.jpg' --output OUT --threshold 0.3
    pe-spatial predict --checkpoint model.pth --input street.mp4 --output OUT
    pe-spatial predict --checkpoint model.pth --input aerial.tif --output OUT --slices 640
    pe-spatial predict --checkpoint model.pth --input photos --output OUT model.tta='{sizes: [1024, 1280]}'
    torchrun --nproc-per-node 8 tools/predict.py --checkpoint model.pth --input photos --output OUT
    pe-spatial predict --checkpoint model.pth --input photos --output OUT --shard 3/16
    pe-spatial predict --encoder PE-Core-L14-336 --words "road, sky, tree" --input photos --output OUT

OUT/pictures mirrors the input: a drawn picture per image, a drawn video per video. Detections of all of them are in
OUT/predictions.json in COCO's format; depth is in 16-bit PNG files and OUT/depth.json; classes of pixels are in
OUT/labels, an indexed PNG per image, and their areas in OUT/segmentation.json.

The same command again does only what is missing, whatever has ended the run before. torchrun splits the files over its
processes (and adds its own report of a failure where the exit status is not 0), and --shard over jobs that know nothing
of each other; the list is complete when the last of them has ended.

Exit status: 0 done, 1 some files failed (the rest is done; they are named at the end and in OUT/failed.json), 2 a
mistake in the command or the files, 130 interrupted (what was done is written).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pe_spatial.commands import predict_words
from pe_spatial.commands.options import CommandParser, add_shared, number_in, positive, slices
from pe_spatial.common.console import print_note, progress
from pe_spatial.common.errors import UserError, printable

if TYPE_CHECKING:
    from pe_spatial.common.records import Part
    from pe_spatial.common.sources import Entry
    from pe_spatial.inference.predictor import Recipe
    from pe_spatial.inference.stream import Prediction, Streamed
    from pe_spatial.inference.tasks import Task
    from pe_spatial.inference.writer import ResultsWriter

RESUMES = "the same command goes on where it was"
DEFAULT_THRESHOLD = 0.5
SHOWN_FAILURES = 20
SWITCH: dict[str, Any] = {"action": "store_true"}
RULES = ("value_range", "bands")  # options that say how pictures of many bits or bands are shown
# options of some tasks: which, what they take and what they do
TASK_OPTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "threshold": (
        "detection and segmentation",
        {"type": float},
        f"lowest score of an object (default {DEFAULT_THRESHOLD})",
    ),
    "slices": (
        "detection",
        {"type": positive, "metavar": "SIDE"},
        "see every picture in square windows of so many pixels, at its own size or at that of --image-size",
    ),
    "slice_overlap": (
        "detection",
        {"type": number_in(0, 0.9), "metavar": "SHARE"},
        "share of a window that neighbors have in common; default: 0.2",
    ),
    "npy": ("depth", SWITCH, "write depth as .npy files too"),
    "depth_colors": (
        "depth",
        {"type": number_in(0, 1e9), "nargs": 2, "metavar": ("NEAR", "FAR")},
        "ends of the color scale; default: each image's own, and for a video the range of the model",
    ),
    "window": (
        "segmentation",
        {"type": positive, "nargs": 2, "metavar": ("SIDE", "STRIDE")},
        "slide a square window over the model's input, in pixels; default: the model's own",
    ),
    "confidence": ("segmentation", SWITCH, "also write the probability of the class of each pixel"),
    "probabilities": ("segmentation", SWITCH, "also write those of all classes (.npy, large)"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_shared(parser, "--checkpoint", "--input", "--output", required=("--input", "--output"))
    add_shared(
        parser, "--batch-size", "--limit", "--device", "--image-size", "--max-pixels", "--no-pictures", "--shard"
    )
    add_shared(parser, "--allow-import", "overrides")
    ends, colors = ("BLACK", "WHITE"), "of pictures of four or more bands (e.g. 4 3 2), or of gray: numbers from 1"
    parser.add_argument("--value-range", type=float, nargs=2, metavar=ends, help="values of pictures of over 8 bits")
    parser.add_argument("--bands", type=positive, nargs="+", metavar="N", help=f"red, green and blue {colors}")
    for name in TASK_OPTIONS:
        add_task_option(parser, name)
    predict_words.add_arguments(parser)


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """There is a checkpoint, or there are words."""
    predict_words.check(options, parser)


def add_task_option(parser: argparse.ArgumentParser, name: str) -> None:
    """Add an option of `TASK_OPTIONS`."""
    tasks, kind, text = TASK_OPTIONS[name]
    parser.add_argument(f"--{name.replace('_', '-')}", help=f"{tasks}: {text}", **kind)


def run(options: argparse.Namespace) -> int:
    """Predict everything; returns the exit status."""
    from pe_spatial.common.names import output_stems
    from pe_spatial.common.records import Records
    from pe_spatial.inference.tasks import reading, resizing, task_of

    source, config, place, model = _source(options)
    task = task_of(config, place)
    complete_options(options, task, place)
    settings = {name: getattr(options, name) for name in (*task.settings, "image_size", "overrides")}
    part = part_of(options)
    files, left_out = find_files(options)
    settings |= {name: rule for name in RULES if (rule := getattr(options, name)) is not None}
    records = Records(options.output, {"task": task.name, **model, **settings}, part)
    sliced = slices(options, config, options.image_size is not None)
    resized = [] if options.image_size is None else resizing(config, options.image_size)
    options.overrides = [*resized, *sliced, *options.overrides]
    options.overrides = [*options.overrides, *reading(config, options.value_range, options.bands)]
    predictor = task.predictor(source, options)
    writer = task.writer(records, output_stems(files), predictor, options)
    names = list(files)[: options.limit]
    failed = predict(predictor, writer, {name: files[name] for name in part.of(names)})
    if not is_first():
        return 1 if failed else 0
    drawn = "" if options.no_pictures else f" and pictures to {options.output / 'pictures'}"
    print(f"wrote {options.output / task.writer.result}{drawn}")
    report(failed, options.output)
    if left_out:
        print_note(left_out)
    return 1 if failed else 0


def _source(options: argparse.Namespace) -> tuple[Path | Recipe, Mapping[str, Any], Path, dict[str, Any]]:
    """What a predictor is made of, its config, what messages call it, and how records describe it."""
    from pe_spatial.common.records import fingerprint
    from pe_spatial.training.checkpoint import load_checkpoint, read_config, resolve_checkpoint

    if options.words is not None:
        recipe, model = predict_words.recipe(options)
        return recipe, recipe.config, Path(recipe.name), model
    checkpoint = resolve_checkpoint(options.checkpoint)
    config = read_config(load_checkpoint(checkpoint), checkpoint)
    return checkpoint, config, checkpoint, {"model": checkpoint.stem, "weights": fingerprint(checkpoint)}


def complete_options(options: argparse.Namespace, task: Task, checkpoint: Path) -> None:
    """Refuse the options of other tasks, and fill in the defaults of this one's."""
    for name, (tasks, _, _) in TASK_OPTIONS.items():
        if getattr(options, name) not in (None, False) and name not in (*task.settings, *task.options):
            raise UserError(
                f"--{name.replace('_', '-')} is for {tasks}, but {checkpoint} holds a model of "
                f"{task.name}; leave it out"
            )
    if options.threshold is None and "threshold" in task.settings:
        options.threshold = DEFAULT_THRESHOLD


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
    writer: ResultsWriter,
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
    from pe_spatial.inference.writer import write_all

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
def keeping_results(writer: ResultsWriter) -> Iterator[None]:
    """Write the lists when the block ends; what was finished is in them also when it is interrupted."""
    try:
        yield
        if is_first():
            writer.close()
        else:
            writer.records.close()
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


def report(failed: Mapping[str, str], output: Path) -> None:
    """Name what failed."""
    named = ((printable(name), reason) for name, reason in failed.items())
    lines: Sequence[str] = [reason if name in reason else f"{name}: {reason}" for name, reason in named]
    for line in lines[:SHOWN_FAILURES]:
        print_note(f"not read or predicted: {line}")
    if len(lines) > SHOWN_FAILURES:
        print_note(f"and {len(lines) - SHOWN_FAILURES} more; all are in {output / 'failed.json'}")
