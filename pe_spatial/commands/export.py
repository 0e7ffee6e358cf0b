"""Export a model for another engine, with a proof that the file computes the same.

    pe-spatial export RUN --to onnx
    pe-spatial export RUN --to onnx --precision int8 --images PHOTOS --repair
    pe-spatial export RUN --to openvino --precision bf16 --image-size 512 --batch-size 1
    pe-spatial export RUN --to onnx val_dataloader.dataset.data_root=DATA --limit 200
    pe-spatial export --encoder PE-Spatial-B16-512 --images PHOTOS --output OUT --to onnx

The file goes to RUN/exported/TARGET_PRECISION, or to --output. It holds the weights, the config, the names of the
classes and the normalization. After it is written, it is run on the validation images of the config through the metric
of the task, and on random inputs layer by layer; PROOF.json and PROOF.md have the results, with hashes, versions and
times. If no engine stays within the tolerance, the file gets a name that ends in .rejected, and the command fails;
--repair returns the worst layers to float32, and tries again.

`Predictor("model.onnx")`, `pe-spatial predict --checkpoint model.onnx` and `pe-spatial eval model.onnx` run the file;
docs/export.md has more, also how to run it without torch.

Exit status: 0 done, 2 a mistake in the command or the files, or a file that was rejected, 130 interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pe_spatial.commands.encoder_options import open_extractor
from pe_spatial.commands.options import CommandParser, add_shared, number_in, positive

if TYPE_CHECKING:
    from pe_spatial.export import ExportOptions, Subject

TARGETS = ("onnx", "openvino", "pt2", "tensorrt")  # as in pe_spatial.export, which loads torch
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
OPEN = "dynamic"
RESUMES = "nothing was written; give the same command again"


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    parser.add_argument("run", nargs="?", metavar="RUN|FILE", help="the folder of a training run, or a checkpoint")
    parser.add_argument("--encoder", metavar="NAME", help="export an encoder alone: a released one, or of timm")
    parser.add_argument("--weights", help="weights of --encoder: a file, a name, or 'none' for random ones")
    add_shared(parser, "--layers", "--output", "--allow-import", "overrides")
    parser.add_argument("--to", choices=TARGETS, default=TARGETS[0], help="what reads the file")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the computation")
    parser.add_argument("--image-size", type=_size, metavar="N", help=f"side of all inputs, or {OPEN}; default: {OPEN}")
    parser.add_argument("--batch-size", type=_batch, metavar="N", help=f"images per pass, or {OPEN}; default: {OPEN}")
    parser.add_argument("--graph", default="", metavar="KIND", help="another graph of a detector: raw or suppressed")
    parser.add_argument("--images", type=Path, metavar="PATH", help="pictures to calibrate int8 with")
    parser.add_argument("--calibration", type=positive, default=32, metavar="N", help="how many of them")
    parser.add_argument("--limit", type=positive, metavar="N", help="use this many validation images; default: all")
    help_text = "points of a metric in percent that the file may lose; percent of the value for others"
    parser.add_argument("--tolerance", type=number_in(0, 100), default=0.2, metavar="X", help=help_text)
    parser.add_argument("--no-metric", action="store_true", help="do not compute the metric on data")
    parser.add_argument("--repair", action="store_true", help="keep layers in float32 until the proof succeeds")


def _size(text: str) -> int | None:
    return None if text == OPEN else int(positive(text))


_batch = _size


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """One thing is exported."""
    if options.run and "=" in options.run and not Path(options.run).exists():
        options.overrides.insert(0, options.run)
        options.run = None
    if bool(options.run) == bool(options.encoder):
        parser.error("give the folder of a training run or a checkpoint, or else --encoder NAME")
    if options.run and (options.weights or options.layers):
        parser.error("--weights and --layers belong to --encoder; a run has its own")
    if options.encoder and not options.output:
        parser.error("--encoder has no folder; set --output to a folder for the file")
    if options.encoder and options.overrides:
        parser.error(f"{options.overrides[0]} changes the config of a run, and --encoder has none")


def run(options: argparse.Namespace) -> int:
    """Export; returns the exit status."""
    from pe_spatial.common.trust import trusting
    from pe_spatial.export import ExportOptions, Tolerance, export

    size = None if options.image_size is None else (options.image_size, options.image_size)
    chosen = ExportOptions(options.to, options.precision, size, options.batch_size, options.images, options.calibration)
    chosen.check()
    with trusting(options.allow_import):
        subject, folder = _subject(options, chosen)
        tolerance = Tolerance(points=options.tolerance)
        file = export(subject, folder, chosen, tolerance, not options.no_metric, options.repair)
    print(f"wrote {file}; the proof holds, see {file.with_name('PROOF.md')}")
    return 0


def _subject(options: argparse.Namespace, chosen: ExportOptions) -> tuple[Subject, Path]:
    from pe_spatial.engines.models import EXPORTED
    from pe_spatial.export import EncoderSubject, ModelSubject
    from pe_spatial.export.subjects import pictures_of
    from pe_spatial.training.checkpoint import resolve_checkpoint

    name = f"{options.to}_{options.precision}"
    if options.encoder:
        options.checkpoint, options.device, options.max_pixels = None, "cpu", None
        return EncoderSubject(open_extractor(options), pictures_of(chosen.images, chosen.calibration)), options.output
    path = resolve_checkpoint(options.run)
    subject = ModelSubject(path, chosen.image_size, options.graph, options.overrides, options.limit)
    return subject, options.output or path.parent / EXPORTED / name
