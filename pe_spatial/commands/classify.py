"""Classify pictures and videos with classes in words, without training.

    pe-spatial classify --encoder PE-Core-B16-224 --input photos --output OUT --classes "cat,dog,a set of {nuts}"
    pe-spatial classify --encoder PE-Core-L14-336 --input photos --output OUT --classes classes.txt --templates imagenet
    pe-spatial classify --encoder RUN --weights FILE --input 'clips/*.mp4' --output OUT --classes "run,jump" --top-k 2
    pe-spatial classify --encoder PE-Core-B16-224 --input imagenet/val --output OUT --classes imagenet --evaluate
    pe-spatial classify --encoder PE-Core-B16-224 --input kinetics/val.csv --output OUT --templates FILE --evaluate

The encoder is a released PE-Core, or a folder such as `pe-spatial demo --words` writes. A video is judged by 8 frames.
OUT/classification.json and OUT/classification.csv have the best classes of every file; OUT/pictures shows them.

With --evaluate, files lie in a folder for each class, or the input is a CSV with a file and its class in each line;
without --classes, the classes are those of the data. Top-1, top-5 and the mean per class are printed, and are in
classification.json.

Run the same command again to continue: it does only what is missing.

Exit status: 0 done, 1 some files failed (the rest is done; they are named at the end and in OUT/failed.json), 2 a
mistake in the command or the files, 130 interrupted (what was done is written).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pe_spatial.commands.encoder_options import add_core, add_templates
from pe_spatial.commands.options import add_shared, positive
from pe_spatial.commands.predict import find_files, finish, part_of, pictures_in, predict

if TYPE_CHECKING:
    from pe_spatial.backbones.text import Prompts
    from pe_spatial.common.sources import Entry
    from pe_spatial.zero_shot.results import ClassificationWriter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_core(parser)
    files = ("--input", "--output")
    add_shared(parser, *files, required=files)
    add = parser.add_argument
    add("--classes", metavar="NAMES", help="names with commas, a file with one per line, or imagenet")
    add_templates(parser)
    add("--top-k", type=positive, default=5, metavar="N", help="number of classes to write for each file")
    add("--evaluate", action="store_true", help="compare with the classes of folders or of a CSV")
    add("--frames", type=positive, default=8, metavar="N", help="of a video, from the first to the last")
    definitions = ("classification", "retrieval")
    add("--video-embedding", choices=definitions, default=definitions[0], help="which official mean of the frames")
    add_shared(parser, "--batch-size", "--limit", "--device", "--max-pixels", "--no-pictures", "--shard")


def run(options: argparse.Namespace) -> int:
    """Classify everything; returns the exit status."""
    from pe_spatial.backbones.text import open_core
    from pe_spatial.common.names import output_stems
    from pe_spatial.common.records import Records
    from pe_spatial.zero_shot.classifier import ZeroShotClassifier
    from pe_spatial.zero_shot.results import ClassificationWriter

    files, names, left_out = _inputs(options)
    prompts = _prompts(options, names)
    truth = _truth(files, names, prompts) if options.evaluate else None
    options.no_pictures |= options.evaluate
    part = part_of(options)
    records = Records(options.output, _description(options, prompts), part)
    model = open_core(options.encoder, options.weights, options.device)
    settings = (options.batch_size, options.frames, options.video_embedding, options.max_pixels)
    classifier = ZeroShotClassifier(model, prompts, *settings)
    writer = ClassificationWriter(records, output_stems(files), prompts.classes, options.top_k, truth, options)
    chosen = part.of(list(files)[: options.limit])
    failed = predict(classifier, writer, {name: files[name] for name in chosen}, len)
    return finish(_lines(options, writer), failed, options.output, left_out)


def _inputs(options: argparse.Namespace) -> tuple[dict[str, Entry], dict[Path, str], str]:
    """The files by name, their classes where they are evaluated, and what is left out."""
    from pe_spatial.common.sources import outside, resolve_sources
    from pe_spatial.zero_shot.truth import of_folders, read_list

    if not options.evaluate:
        files, left_out = find_files(options)
        return files, {}, left_out
    if options.input.lower().endswith(".csv"):
        listed = read_list(Path(options.input))
        entries = outside(resolve_sources(list(listed)), options.output)
        return {entry.name: entry for entry in entries}, {entry.path: listed[entry.path] for entry in entries}, ""
    files, left_out = find_files(options)
    return files, of_folders(list(files.values())), left_out


def _prompts(options: argparse.Namespace, names: Mapping[Path, str]) -> Prompts:
    """The classes of the command, or those of the data."""
    from pe_spatial.backbones.text import Prompts
    from pe_spatial.common.errors import OptionError
    from pe_spatial.zero_shot.lists import read_prompts, read_templates

    if options.classes is not None:
        return read_prompts(options.classes, options.templates)
    if not names:
        raise OptionError('give --classes: names with commas ("cat,dog"), a file with one per line, or imagenet')
    return Prompts(tuple(sorted(set(names.values()))), read_templates(options.templates))


def _truth(files: Mapping[str, Entry], names: Mapping[Path, str], prompts: Prompts) -> dict[str, int]:
    """The row of the class of each file, by its name."""
    from pe_spatial.zero_shot.truth import match_classes

    rows = match_classes(list(names.values()), prompts.classes)
    return {name: rows[names[entry.path]] for name, entry in files.items()}


def _description(options: argparse.Namespace, prompts: Prompts) -> dict[str, Any]:
    """What two runs into one folder must have in common."""
    from pe_spatial.backbones.text.runs import fingerprint_of, source_of

    return {
        "task": "zero-shot classification",
        "model": options.encoder,
        "weights": fingerprint_of(source_of(options.encoder, options.weights)),
        "prompts": f"{len(prompts.classes)} classes, {len(prompts.templates)} templates, {prompts.digest}",
        **{name: getattr(options, name) for name in ("top_k", "evaluate", "frames", "video_embedding")},
    }


def _lines(options: argparse.Namespace, writer: ClassificationWriter) -> Iterator[str]:
    """What was written, and the score; it is computed by the process that says it."""
    from pe_spatial.zero_shot.results import TABLE, score_lines

    place = options.output / writer.result
    yield f"wrote {place} and {options.output / TABLE}{pictures_in(options.output, options)}"
    if score := writer.evaluation():
        yield from score_lines(score, place)
