"""Track objects through a video, a folder of frames, a camera, or every video of a dataset.

    pe-spatial track --config tracking/dino_pe_spatial_b16_davis2017 --input a.mp4 --mask first.png --output OUT
    pe-spatial track --config ... --input frames/ --box 120,80,260,300 --box 300,90,410,250 --output OUT
    pe-spatial track --config ... --input frames/ --mask first.png --at 57:fixed.png --output OUT
    pe-spatial track --config ... --output OUT test_dataloader.dataset.data_root=DAVIS
    pe-spatial track --config ... --output OUT --shard 3/16 test_dataloader.dataset.data_root=DAVIS

A mask is a PNG of object numbers, 0 = background (0 and 255 alone: one object; else 255 is unknown), grayscale, palette
or in the colors of DAVIS. A mask given with --at marks objects in a later frame, counted from 0: objects that enter
there, or corrections. Without --input, the dataset of the config is tracked, and scored where it has annotations.
torchrun and --shard split its videos.

OUT/NAME/*.png are palette masks in the layout of DAVIS, OUT/NAME.mp4 shows them, OUT/NAME.json has the boxes, and
OUT/scores.json the scores. After an interruption or a kill, run the same command again to continue.

Exit status: 0 done, 2 a mistake in the command or the files, 130 interrupted (finished frames stay). A missing or
damaged frame is an error; with --skip-unreadable it is left out and counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pe_spatial.commands.options import CommandParser, add_shared, encoder_weights, numbers, positive
from pe_spatial.commands.predict import gather, is_first, keeping_results, part_of
from pe_spatial.commands.score import dataset_records
from pe_spatial.common.console import print_note, progress
from pe_spatial.common.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import Tensor

    from pe_spatial.common.records import Part
    from pe_spatial.tracking.model import VideoTracker
    from pe_spatial.tracking.results import TrackingWriter
    from pe_spatial.tracking.running import PromptedVideo, Video

RESUMES = "finished frames are kept; run the same command again to continue"
POINTS = (
    "--point without --sam2: what is tracked is a square of 32 pixels around each point, not the object under it; give "
    "the object with --sam2 WEIGHTS, a --box or a --mask"
)


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add_shared(parser, "--config", "--input", "--output", "overrides", required=["--config", "--output"])
    add("--mask", help="PNG of the objects in the first frame")
    many: dict[str, Any] = {"action": "append", "default": []}
    box = of_object(numbers("X1,Y1,X2,Y2 in pixels, or N:X1,Y1,X2,Y2 for object N", 4))
    point = of_object(numbers("X,Y in pixels, or N:X,Y for object N, with ,0 for a point beside it", 2, 3))
    add("--box", **many, type=box, metavar="[N:]X1,Y1,X2,Y2", help="an object on the first frame, in pixels")
    add("--point", **many, type=point, metavar="[N:]X,Y[,0]", help="a point on object N; with ,0 beside it")
    add("--at", **many, type=later_mask, metavar="FRAME:PNG", help="objects that enter or are corrected in a frame")
    add("--sam2", help="weights of SAM 2.1, which turn boxes and points into masks; default: the box itself")
    add_shared(parser, "--weights", "--limit", "--batch-size", "--device", "--max-pixels", "--no-pictures", "--shard")
    add_shared(parser, "--allow-import")
    add("--mot", action="store_true", help="write the boxes in MOTChallenge's format too")
    add("--skip-unreadable", action="store_true", help="leave out frames that are missing or damaged")
    parser.add_old_spellings({"--batch": "--batch-size", "--no-overlay": "--no-pictures"})


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """Refuse options that contradict each other."""
    if options.limit is not None and options.input is None:
        parser.error(f"--limit {options.limit} is a number of frames of --input; a dataset is tracked whole")
    if options.input is None and (options.mask or options.box or options.point or options.at):
        parser.error("--mask, --box, --point and --at belong to --input; a dataset brings its own masks")
    if options.input is not None and options.shard is not None:
        parser.error("--shard splits the videos of a dataset; --input is one video")


def run(options: argparse.Namespace) -> int:
    """Track everything, then say how fast it went."""
    from pe_spatial.common.devices import peak_memory
    from pe_spatial.tracking.running import DatasetVideo

    config = load_tracker_config(options)
    if options.sam2:
        config.model.prompter = {"type": "Sam2Prompter", "weights": options.sam2}
    part = part_of(options)
    started = time.monotonic()
    if options.input is None:
        videos: list[Video] = [DatasetVideo(record) for record in dataset_records(options.config, config)]
    else:
        video = input_video(options)
        video.check(options.limit)
        if options.point and not options.sam2 and "prompter" not in config.model and is_first():
            print_note(POINTS)
        videos = [video]
    writer = open_writer(options, config, videos, part)
    complete = True
    with keeping_results(writer):
        counted = track_all(options, config, videos, writer, part)
        gather({})  # also waits for the other processes that torchrun has started
        if is_first() and options.input is None:
            with writer.records.list_lock():
                complete = score_all(options, videos, writer)
    if not is_first():
        return 0
    seconds = time.monotonic() - started
    if counted:
        print(
            f"{counted} frames in {seconds:.1f} s, {counted / seconds:.2f} frames/s with reading and writing; "
            f"peak memory {peak_memory(options.device):.2f} GB; {options.output}"
        )
    elif complete:
        print(f"nothing left to do: {options.output} is complete")
    say_left_out(options)
    return 0


def load_tracker_config(options: argparse.Namespace) -> Config:
    """The config of the command, with what `--weights` stands for: weights, or an exported encoder in their place."""
    from pe_spatial.engines.header import is_exported
    from pe_spatial.inference.exported_backbone import require_same_encoder
    from pe_spatial.training.config import load_config

    if not options.weights or not is_exported(options.weights):
        return load_config(options.config, [*options.overrides, *encoder_weights(options)])
    config = load_config(options.config, options.overrides)
    require_same_encoder(options.weights, config.model.backbone)
    config.model.backbone = {"type": "ExportedBackbone", "file": options.weights}
    return config


def say_left_out(options: argparse.Namespace) -> None:
    """Count what lies in the folder of the frames and is none, unless the results lie there too."""
    from pe_spatial.common.sources import resolve_sources

    if options.input is None or not Path(options.input).is_dir() or frames_of(options) != options.input:
        return
    left_out = resolve_sources(options.input, ["image"]).warning
    if left_out:
        print_note(left_out)


def open_writer(options: argparse.Namespace, config: Config, videos: Sequence[Video], part: Part) -> TrackingWriter:
    """The output folder, claimed for this run."""
    from pe_spatial.common.names import short_name
    from pe_spatial.common.records import Records
    from pe_spatial.tracking.results import TrackingWriter

    data = None
    if options.input is None:
        data = {key: value for key, value in config.test_dataloader.dataset.items() if key != "videos"}
    run = {
        "task": "tracking",
        "tracker": config.model.to_dict(),
        "pictures": not options.no_pictures,
        "mot": options.mot,
        "skip_unreadable": options.skip_unreadable,
        "limit": options.limit,
        "input": data or str(Path(options.input).absolute()),
        "prompts": videos[0].identity if options.input is not None else None,
    }
    names = {video.name: short_name(video.name) for video in videos}
    return TrackingWriter(Records(options.output, run, part), names, options)


def track_all(
    options: argparse.Namespace, config: Config, videos: Sequence[Video], writer: TrackingWriter, part: Part
) -> int:
    """Track this process's share of the videos that are not finished; returns the number of frames tracked now."""
    import torch
    from mmengine.registry import MODELS

    from pe_spatial.common.devices import choose_device
    from pe_spatial.tracking.running import track_video

    missing = set(writer.plan({video.name: video.path for video in videos}))
    todo = [video for video in part.of(videos) if video.name in missing]
    if not todo:
        return 0
    torch.manual_seed(0)  # random weights, where no others are given, are those of every other run
    tracker: VideoTracker = MODELS.build(config.model).to(choose_device(options.device))
    counted = 0
    for video in todo:
        frames = video.open(options.skip_unreadable, options.limit)
        with progress(video.name, frames.count, "frames", shown=is_first()) as bar:
            counted += track_video(tracker, video, frames, writer, options.batch_size, bar.advance)
    return counted


def score_all(options: argparse.Namespace, videos: Sequence[Video], writer: TrackingWriter) -> bool:
    """Score the dataset when the last of its videos is finished; whether it is.

    Videos of other processes and of earlier runs are scored from their files.
    """
    from pe_spatial.common.files import write_json
    from pe_spatial.tracking.scores import ScoreTable

    finished = {unit.name for unit in writer.finished()}
    left = [video.name for video in videos if video.name not in finished]
    if left:
        print(f"{len(left)} of {len(videos)} videos are left to other processes; the last one writes the scores")
        return False
    table = ScoreTable([row for video in videos for row in video.scores(options.output)])
    if table.rows:
        write_json(options.output / "scores.json", table.as_dict())
        print(table)
    return True


# --- what is tracked --------------------------------------------------------------------------------------------------
def input_video(options: argparse.Namespace) -> PromptedVideo:
    """The video of --input with its prompts."""
    from pe_spatial.tracking.masks import read_prompt
    from pe_spatial.tracking.running import PromptedVideo

    given = [(0, options.mask)] if options.mask else []
    masks: dict[int, Tensor] = {}
    for frame, path in [*given, *options.at]:
        if frame in masks:
            raise UserError(f"frame {frame} has two masks, the second is {path}; give one with all of its objects")
        masks[frame] = read_prompt(path)
    boxes: dict[int, list[float]] = {}
    for position, (number, corners) in enumerate(options.box, start=1):
        name = position if number is None else int(number)
        if name in boxes:
            raise UserError(f"object {name} has two boxes, {boxes[name]} and {corners}; number them apart, as in 2:…")
        boxes[name] = corners
    points: dict[int, list[tuple[float, float, bool]]] = {}
    for number, (x, y, *on_object) in options.point:
        points.setdefault(1 if number is None else int(number), []).append((x, y, not on_object or on_object[0] > 0))
    if not masks and not boxes and not points:
        raise UserError("nothing to track: give --mask, --box or --point for the first frame, or --at for a later one")
    return PromptedVideo(frames_of(options), options.skip_unreadable, masks, boxes, points)


def frames_of(options: argparse.Namespace) -> str | list[str]:
    """The input; of a folder in which the results lie, its images without the results."""
    from pe_spatial.common.sources import outside, resolve_sources

    folder = Path(options.input)
    if not folder.is_dir() or not options.output.resolve().is_relative_to(folder.resolve()):
        return options.input
    return [str(entry.path) for entry in outside(resolve_sources(folder, ["image"]), options.output)]


def of_object(parse: Callable[[str], list[float]]) -> Callable[[str], tuple[float | None, list[float]]]:
    """A parser of numbers that the number of an object and a colon may stand before; None where it is left out."""

    def parse_prompt(text: str) -> tuple[float | None, list[float]]:
        number, colon, values = text.rpartition(":")
        return positive(number) if colon else None, parse(values)

    return parse_prompt


def later_mask(text: str) -> tuple[int, str]:
    """The frame and the file of `FRAME:PNG`."""
    frame, _, path = text.partition(":")
    if not frame.isdecimal() or not path:
        raise argparse.ArgumentTypeError(f"{text!r}: write FRAME:PNG, for example 57:mask.png, with frames from 0")
    return int(frame), path
