"""Track objects through a video, a folder of frames, a camera, or every video of a dataset.

    python tools/track.py --config tracking/dino_pe_spatial_b16_davis2017 --input a.mp4 --mask first.png --output OUT
    python tools/track.py --config ... --input frames/ --box 120,80,260,300 --box 300,90,410,250 --output OUT
    python tools/track.py --config ... --input frames/ --mask first.png --at 57:fixed.png --output OUT
    python tools/track.py --config ... --output OUT test_dataloader.dataset.data_root=DAVIS

A mask is a PNG of object numbers, 0 = background (0 and 255 alone: one object). A mask given with --at says where
objects are on a later frame, counted from 0: objects that enter there, or corrections. Without --input, the dataset of
the config is tracked, and scored where it has annotations.

OUT/NAME/*.png are palette masks in the layout of DAVIS, OUT/NAME.mp4 shows them, OUT/NAME.json has the boxes, and
OUT/scores.json the scores. Interrupted, the same command goes on where it stopped.

Exit status: 0 done, 2 a mistake in the command or the files, 130 interrupted (finished frames stay).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from pe_spatial.common.errors import UserError
from pe_spatial.common.files import write_json
from pe_spatial.tracking.datasets import VideoDataset
from pe_spatial.tracking.frames import Frame, Frames, open_frames, read_mask
from pe_spatial.tracking.metrics import VideoScore, open_score, score_folder
from pe_spatial.tracking.model import VideoTracker
from pe_spatial.tracking.results import VideoResults, open_results
from pe_spatial.tracking.scores import ScoreTable
from pe_spatial.training.config import load_config

console = Console(stderr=True)
Given = Callable[[Frame], Tensor | None]
Observer = Callable[[Frame, Tensor], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    options = parse_arguments(arguments)
    try:
        run(options)
    except KeyboardInterrupt:
        console.print("interrupted; finished frames are kept, the same command goes on")
        return 130
    # what a user can mend; anything else is a defect and shows its traceback
    except (UserError, ValueError, KeyError, OSError, ModuleNotFoundError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        console.print(f"error: {message}", markup=False, highlight=False, soft_wrap=True)
        return 2
    return 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", required=True, help="a file, or a name below configs/")
    add("--input", help="a video, a folder or glob of frames, or the number of a camera; default: the config's dataset")
    add("--output", required=True, type=Path, help="a new folder, or that of the same run interrupted")
    add("--mask", help="PNG of the objects on the first frame")
    add("--box", action="append", default=[], metavar="[N:]X1,Y1,X2,Y2", help="an object on the first frame, in pixels")
    add("--point", action="append", default=[], metavar="[N:]X,Y[,0]", help="a point on object N; with ,0 beside it")
    add("--at", action="append", default=[], metavar="FRAME:PNG", help="objects that enter or are corrected on a frame")
    add("--weights", help="encoder weights instead of the config's: a file, a name, or 'none' for random ones")
    add("--sam2", help="weights of SAM 2.1, which turn boxes and points into masks; default: the box itself")
    add("--limit", type=int, help="track only the first frames of --input")
    add("--batch", type=int, default=1, help="frames per pass of the encoder (default 1)")
    add("--device", help="default: cuda if there is one")
    add("--mot", action="store_true", help="write the boxes in MOTChallenge's format too")
    add("--no-overlay", action="store_true", help="write no overlay video")
    add("--skip-unreadable", action="store_true", help="leave out frames that are missing or damaged")
    add("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    options = parser.parse_intermixed_args(arguments)
    if options.batch < 1:
        parser.error(f"--batch {options.batch} is not a positive number of frames")
    if options.limit is not None and (options.limit < 1 or options.input is None):
        parser.error(f"--limit {options.limit}: a positive number of frames of --input")
    if options.input is None and (options.mask or options.box or options.point or options.at):
        parser.error("--mask, --box, --point and --at belong to --input; a dataset brings its own masks")
    return options


def run(options: argparse.Namespace) -> None:
    """Track everything, then say how fast it went."""
    config = load_config(options.config, [*options.overrides, *shorthands(options)])
    started = time.monotonic()
    if options.input is None:
        counted = track_dataset(options, config)
    else:
        counted = track_input(options, config)
    seconds = time.monotonic() - started
    if counted:
        print(
            f"{counted} frames in {seconds:.1f} s, {counted / seconds:.2f} frames/s with reading and writing; "
            f"peak memory {peak_memory()}; {options.output}"
        )
    else:
        print(f"nothing left to do: {options.output} is complete")


def shorthands(options: argparse.Namespace) -> list[str]:
    """Overrides that stand behind options."""
    overrides = []
    if options.weights:
        overrides.append(f"model.backbone.weights={'null' if options.weights == 'none' else options.weights}")
    if options.sam2:
        overrides.append(f"model.prompter={{type: Sam2Prompter, weights: {options.sam2}}}")
    return overrides


def build_tracker(config: Config, device: str | None) -> VideoTracker:
    torch.manual_seed(0)  # random weights, where no others are given, are those of every other run
    tracker: VideoTracker = MODELS.build(config.model)
    return tracker.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


# --- one video of the user's ------------------------------------------------------------------------------------------
def track_input(options: argparse.Namespace, config: Config) -> int:
    """Track the video of --input; returns the number of frames tracked now."""
    frames = limited(open_frames(options.input, options.skip_unreadable), options.limit)
    masks = read_prompts(options)
    boxes, points = parse_boxes(options.box), parse_points(options.point)
    if not masks and not boxes and not points:
        raise UserError("nothing to track: give --mask, --box or --point for the first frame, or --at for a later one")
    source = Path(options.input)
    run_identity = {
        **identity(config, options),
        "input": str(source.resolve()) if source.exists() else options.input,
        "masks": {number: hashlib.sha256(mask.numpy().tobytes()).hexdigest() for number, mask in masks.items()},
        "boxes": options.box,
        "points": options.point,
        "skip_unreadable": options.skip_unreadable,
        "limit": options.limit,
    }
    open_results(options.output, json.loads(json.dumps(run_identity)))
    with open_video(options, frames.name, frames.rate) as results:
        if results.finished:
            return 0
        tracker = build_tracker(config, options.device)

        def given(frame: Frame) -> Tensor | None:
            mask = masks.get(frame.number)
            return tracker.prompt(frame.image, mask, boxes, points) if frame.number == 0 else mask

        with make_progress() as progress:
            return track_video(tracker, frames, given, results, options.batch, progress)


def limited(frames: Frames, limit: int | None) -> Frames:
    """The first frames of a video."""
    if limit is not None:
        frames.count = limit if frames.count is None else min(limit, frames.count)
    return frames


def read_prompts(options: argparse.Namespace) -> dict[int, Tensor]:
    """Masks by frame."""
    masks = {} if options.mask is None else {0: read_mask(options.mask)}
    for text in options.at:
        frame, _, path = text.partition(":")
        if not frame.isdecimal() or not path:
            raise UserError(f"--at {text}: write FRAME:PNG, for example 57:mask.png, with frames counted from 0")
        masks[int(frame)] = read_mask(path)
    return masks


def parse_boxes(texts: Sequence[str]) -> dict[int, list[float]]:
    """Boxes by object; those without a number are counted from 1."""
    boxes: dict[int, list[float]] = {}
    for position, text in enumerate(texts, start=1):
        number, values = split_prompt(text, position, "--box")
        if len(values) != 4:
            raise UserError(f"--box {text}: write X1,Y1,X2,Y2 in pixels, or N:X1,Y1,X2,Y2 for object N")
        boxes[number] = values
    return boxes


def parse_points(texts: Sequence[str]) -> dict[int, list[tuple[float, float, bool]]]:
    """Points by object; those without a number belong to object 1."""
    points: dict[int, list[tuple[float, float, bool]]] = {}
    for text in texts:
        number, values = split_prompt(text, 1, "--point")
        if len(values) not in (2, 3):
            raise UserError(
                f"--point {text}: write X,Y in pixels, or N:X,Y for object N, with ,0 for a point beside it"
            )
        points.setdefault(number, []).append((values[0], values[1], len(values) == 2 or values[2] > 0))
    return points


def split_prompt(text: str, default: int, option: str) -> tuple[int, list[float]]:
    head, separator, tail = text.partition(":")
    try:
        number = int(head) if separator else default
        return number, [float(value) for value in (tail if separator else head).split(",")]
    except ValueError:
        raise UserError(f"{option} {text}: {head if separator else text!r} is not made of numbers") from None


# --- a dataset -------------------------------------------------------------------------------------------------------
def track_dataset(options: argparse.Namespace, config: Config) -> int:
    """Track the videos of the config's dataset, and score them; returns the number of frames tracked now."""
    if "test_dataloader" not in config:
        raise UserError(f"{options.config} names no dataset (test_dataloader); give --input, or a config with one")
    dataset: VideoDataset = DATASETS.build(config.test_dataloader.dataset)
    records = [dataset.get_data_info(index) for index in range(len(dataset))]
    data = {key: value for key, value in config.test_dataloader.dataset.items() if key != "videos"}
    open_results(options.output, json.loads(json.dumps({**identity(config, options), "input": data})))
    tracker = build_tracker(config, options.device)
    scores, counted = [], 0
    with make_progress() as progress:
        for record in records:
            frames = open_frames(record["frame_paths"], options.skip_unreadable)
            with open_video(options, record["video"], frames.rate) as results:
                if results.finished:
                    score = score_folder(record, options.output / record["video"])
                else:
                    score = open_score(record)
                    counted += track_record(tracker, frames, record, results, score, options.batch, progress)
            scores += score.results()
    table = ScoreTable(scores)
    if table.rows:
        write_json(options.output / "scores.json", table.as_dict())
        print(table)
    return counted


def track_record(
    tracker: VideoTracker,
    frames: Frames,
    record: Mapping[str, Any],
    results: VideoResults,
    score: VideoScore,
    batch: int,
    progress: Progress,
) -> int:
    """Track and score one video of a dataset."""
    masks = {number: read_mask(**given) for number, given in record["prompts"].items()}

    def observe(frame: Frame, ids: Tensor) -> None:
        path = record["annotation_paths"][frame.number]
        if path is not None:
            score.add(frame.number, ids.cpu().numpy(), path)

    return track_video(tracker, frames, lambda frame: masks.get(frame.number), results, batch, progress, observe)


# --- any video --------------------------------------------------------------------------------------------------------
def track_video(
    tracker: VideoTracker,
    frames: Frames,
    given: Given,
    results: VideoResults,
    batch: int,
    progress: Progress,
    observe: Observer = lambda frame, ids: None,
) -> int:
    """Track one video and write its results; returns the number of frames tracked now."""
    tracker.labels.reset()
    task = progress.add_task(results.name, total=frames.count, speed="")
    iterator = islice(frames, frames.count)
    done = restore(tracker, results, iterator, progress, task, observe)
    waiting: deque[Frame] = deque()  # frames that the encoder has seen and the tracker has not

    def images() -> Iterator[Tensor]:
        for frame in iterator:
            waiting.append(frame)
            yield frame.image

    started, counted = time.monotonic(), 0
    try:
        for counted, ids in enumerate(tracker.track(images(), lambda _: given(waiting[0]), batch), start=1):
            frame = waiting.popleft()
            observe(frame, ids)
            results.write(frame, ids)
            results.save_state(tracker.labels.state())
            progress.update(task, advance=1, speed=f"{counted / (time.monotonic() - started):.2f} frames/s")
    except BaseException:
        if len(results.names) == tracker.labels.frame > 0:  # not in the midst of a frame
            results.save_state(tracker.labels.state(), force=True)
        raise
    if done + counted == 0:
        raise UserError(f"{results.name}: a video without frames that can be read; check the input")
    if not tracker.labels.ids:
        raise UserError(f"{results.name} ended before the frame on which the first object is given; check --at")
    progress.update(task, total=done + counted)
    results.finish(frames.skipped)
    return counted


def restore(
    tracker: VideoTracker,
    results: VideoResults,
    iterator: Iterator[Frame],
    progress: Progress,
    task: TaskID,
    observe: Observer,
) -> int:
    """Take over what an interrupted run finished; returns its number of frames."""
    state = results.load_state()
    if state is None:
        return 0
    for frame in islice(iterator, state["frame"]):
        ids = results.read(frame)
        observe(frame, ids)
        results.note(frame, ids)
        progress.update(task, advance=1)
    tracker.labels.restore(state, tracker.device)
    return len(results.names)


def identity(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """What makes two runs the same."""
    return {
        "tool": "track",
        "model": config.model.to_dict(),
        "overlay": not options.no_overlay,
        "mot": options.mot,
    }


def open_video(options: argparse.Namespace, name: str, rate: float) -> VideoResults:
    return VideoResults(options.output, name, rate, overlay=not options.no_overlay, mot=options.mot)


def make_progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=console,
    )


def peak_memory() -> str:
    """Of the process, and of the GPU where there is one."""
    peak = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"
    return f"{peak}, GPU {torch.cuda.max_memory_allocated() / 2**20:.0f} MB" if torch.cuda.is_available() else peak


if __name__ == "__main__":
    sys.exit(main())
