"""Run a trained model over images, folders and videos.

    python tools/predict.py --checkpoint work_dirs/NAME --input photo.jpg --output OUT
    python tools/predict.py --checkpoint model.pth --input 'photos/**/*.jpg' --output OUT --threshold 0.3
    python tools/predict.py --checkpoint model.pth --input street.mp4 --output OUT
    python tools/predict.py --checkpoint model.pth --input photos --output OUT model.tta='{sizes: [1024, 1280]}'
    torchrun --nproc-per-node 8 tools/predict.py --checkpoint seg.pth --input photos --output OUT

OUT/pictures mirrors the input: a drawn picture per image, a drawn video per video. Detections of all of them are in
OUT/predictions.json in COCO's format; depth is in 16-bit PNG files and OUT/depth.json; classes of pixels are in
OUT/labels, an indexed PNG per image, and their areas in OUT/segmentation.json.

Segmentation: images of any size are cut into windows, the same command again does only what is missing, and torchrun
splits the files over its processes (and adds its own report of a failure where the exit status is not 0).

Exit status: 0 done, 1 some files could not be read (the rest is done; they are named at the end), 2 a mistake in the
command or the files, 130 interrupted (what was done is written).
"""

import argparse
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import distributed

from pe_spatial.common.errors import UserError
from pe_spatial.common.files import is_full_disk
from pe_spatial.common.pictures import save_image
from pe_spatial.common.records import Records, fingerprint, output_stems
from pe_spatial.depth.results import DepthWriter
from pe_spatial.detection.results import DetectionWriter
from pe_spatial.inference.predictor import Predictor, resolve_checkpoint
from pe_spatial.inference.stream import (
    VIDEO_SUFFIXES,
    Prediction,
    Source,
    count_frames,
    count_pictures,
    find_sources,
    source_root,
    stream,
)
from pe_spatial.training.checkpoint import load_checkpoint, read_config
from pe_spatial.training.distributed import join_processes

LARGEST_IMAGE = 2**30  # pixels; Pillow takes files of twice as many for an attack
_PIXELS_TO_WRITE = 64_000_000  # of pictures that wait to be written


class Writer(Protocol):
    """What a task does with its predictions; called from several threads."""

    def write(self, name: str, image: Any, sample: Any, frame: int | None) -> NDArray[np.uint8] | None: ...

    def close(self) -> Path: ...


@runtime_checkable
class ResumableWriter(Writer, Protocol):
    """A writer that knows what an earlier run has finished, and whose processes may share a folder."""

    def is_done(self, name: str, frames: int | None = None) -> bool: ...


@dataclass(frozen=True)
class Job:
    """What is asked for: the options, the checkpoint file, and the files below their root."""

    options: argparse.Namespace
    checkpoint: Path
    root: Path
    paths: list[Path]
    rank: int
    processes: int

    def name(self, path: Path) -> str:
        """The path of a file relative to the input."""
        return path.relative_to(self.root).as_posix()

    def share(self) -> list[Path]:
        """The files of this process."""
        return self.paths[: self.options.limit][self.rank :: self.processes]


@dataclass(frozen=True)
class Task:
    """`result` is the file by which an output folder is known to be this task's."""

    result: str
    make: Callable[[Job], tuple[Predictor, Writer]]


def detect(job: Job) -> tuple[Predictor, Writer]:
    predictor = Predictor(job.checkpoint, job.options.device, job.options.batch_size, job.options.overrides)
    return predictor, DetectionWriter(job.options.output, predictor.metainfo, job.options.threshold)


def estimate_depth(job: Job) -> tuple[Predictor, Writer]:
    predictor = Predictor(job.checkpoint, job.options.device, job.options.batch_size, job.options.overrides)
    return predictor, DepthWriter(job.options.output, job.options.npy, job.options.depth_colors)


def segment(job: Job) -> tuple[Predictor, Writer]:
    warnings.filterwarnings("ignore", ".*Fail to import ..MultiScaleDeformableAttention")  # mmcv without extensions
    try:
        from pe_spatial.segmentation.predictor import SegmentationPredictor
        from pe_spatial.segmentation.results import SegmentationWriter
        from pe_spatial.segmentation.windows import check_window
    except ImportError as error:
        raise UserError(f"{error}; segmentation needs pip install 'pe_spatial[segmentation]'") from error
    options = job.options
    window = None
    if options.window is not None:
        side, stride = options.window
        window = check_window((side, side), (stride, stride))
    scratch = options.output / "probabilities" if options.probabilities else None
    predictor = SegmentationPredictor(
        job.checkpoint, options.device, options.batch_size, options.overrides, window, options.confidence, scratch
    )
    run = {"model": job.checkpoint.stem, "weights": fingerprint(job.checkpoint)}
    run |= {"window": options.window, "overrides": options.overrides}
    records = Records(options.output / SEGMENTATION_LIST, run, job.root, job.rank)
    stems = output_stems(map(job.name, job.paths))
    things = getattr(predictor.model, "things", ())
    is_thing = [label in things for label in range(predictor.model.num_classes)]
    metainfo = {"is_thing": is_thing, **predictor.metainfo}
    writer = SegmentationWriter(
        records, stems, metainfo, predictor.kinds, options.threshold, draw=not options.no_pictures
    )
    return predictor, writer


SEGMENTATION_LIST = "segmentation.json"
TASKS = {
    "MaskRCNN": Task("predictions.json", detect),
    "DETA": Task("predictions.json", detect),
    "DepthModel": Task("depth.json", estimate_depth),
    "SemanticSegmentor": Task(SEGMENTATION_LIST, segment),
    "MaskDecoder": Task(SEGMENTATION_LIST, segment),
}
SEGMENTATION_OPTIONS = ("window", "confidence", "probabilities")


def find_task(checkpoint: Path, options: argparse.Namespace) -> Task:
    """The task of a checkpoint.

    Raises:
        UserError: This tool does not know it, an option is not for it, or the output folder is another task's.
    """
    model = read_config(load_checkpoint(checkpoint), checkpoint)["model"]["type"]
    if model not in TASKS:
        raise UserError(f"{checkpoint}: tools/predict.py has no writer for {model}; it knows {', '.join(TASKS)}")
    task = TASKS[model]
    if task.make is not segment:
        for option in SEGMENTATION_OPTIONS:
            if getattr(options, option):
                raise UserError(f"--{option} is for segmentation, but {checkpoint} holds a {model}; leave it out")
    for other in {other.result for other in TASKS.values()} - {task.result}:
        if (options.output / other).exists():
            raise UserError(
                f"{options.output} holds the results of another task ({other}) than that of {checkpoint} ({model}); "
                "give another --output"
            )
    return task


class Pictures:
    """Drawn pictures below a folder: a file per image, a video per video; frames arrive in order."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder = folder
        self.job = job
        self._video: tuple[Path, cv2.VideoWriter] | None = None

    def path(self, source: Path) -> Path:
        """Where the picture of a file goes."""
        path = self.folder / self.job.name(source)
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return path.with_suffix(".mp4")
        return path.with_suffix(".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png")

    def add_image(self, source: Source, picture: NDArray[np.uint8]) -> None:
        """Save the picture of an image; may run in any thread."""
        save_image(self.path(source.path), picture)

    def add_frame(self, source: Source, picture: NDArray[np.uint8]) -> None:
        """Append a frame to the video of its source; call in order, from one thread."""
        path = self.path(source.path)
        if self._video is None or self._video[0] != path:
            self.close()
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (picture.shape[1], picture.shape[0])
            video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), source.frames_per_second or 25.0, size)
            if not video.isOpened():
                raise UserError(f"{path}: this OpenCV cannot write MP4 video; use --no-pictures")
            self._video = (path, video)
        self._video[1].write(np.ascontiguousarray(picture[:, :, ::-1]))

    def close(self) -> None:
        """Finish the open video."""
        if self._video is not None:
            self._video[1].release()
            self._video = None


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, type=Path, help="a file, or the work folder of a training run")
    parser.add_argument("--input", required=True, help="an image, a video, a folder, or a glob pattern in quotes")
    parser.add_argument("--output", required=True, type=Path, help="a folder")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="lowest score of a detection or instance (default 0.5)"
    )
    parser.add_argument("--npy", action="store_true", help="write depth as .npy files too")
    parser.add_argument(
        "--depth-colors",
        type=float,
        nargs=2,
        metavar=("NEAR", "FAR"),
        help="ends of the color scale of depth; default: each image's own, and for a video the range of the model",
    )
    parser.add_argument(
        "--window",
        type=int,
        nargs=2,
        metavar=("SIDE", "STRIDE"),
        help="segmentation: slide a square window over the model's input, in pixels; default: the model's own",
    )
    parser.add_argument(
        "--confidence", action="store_true", help="segmentation: also write the probability of the class of each pixel"
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="segmentation: also write those of all classes (.npy, large)"
    )
    parser.add_argument("--limit", type=int, help="stop after this many files")
    parser.add_argument("--batch-size", type=int, default=1, help="images (segmentation: windows) at once")
    parser.add_argument("--device", help="for example cuda:1 or cpu; default: CUDA if there is any")
    parser.add_argument("--no-pictures", action="store_true", help="write the data only")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="entries of the model's config to change")
    return parser.parse_intermixed_args(arguments)


def run(options: argparse.Namespace) -> list[tuple[Path, str]]:
    """Predict everything; returns the files that could not be read and why, those of all processes."""
    checkpoint = resolve_checkpoint(options.checkpoint)
    task = find_task(checkpoint, options)
    output = options.output.resolve()
    paths = [path for path in find_sources(options.input) if not path.resolve().is_relative_to(output)]
    if not paths:
        raise UserError(f"{options.input}: only files of the output folder {options.output} are there")
    job = Job(options, checkpoint, source_root(options.input), paths, *join_processes())
    options.output.mkdir(parents=True, exist_ok=True)
    predictor, writer = task.make(job)
    if job.processes > 1 and not isinstance(writer, ResumableWriter):
        raise UserError("only segmentation splits its files over processes; start this one without torchrun")
    pictures = None if options.no_pictures else Pictures(options.output / "pictures", job)
    share = job.share()
    todo = [path for path in share if not is_done(writer, pictures, path, job)]
    if job.rank == 0 and len(todo) < len(share):
        print(f"{len(share) - len(todo)} of {len(share)} files were done by an earlier run")
    failed: list[tuple[Path, str]] = []
    try:
        predictions = track(stream(predictor, todo), count_pictures(todo), job)
        write_all(predictions, writer, pictures, job, failed)
    except BaseException:  # also Ctrl-C: what was predicted is kept
        with suppress(OSError):  # a disk that is full for the list too
            finish(writer, pictures, job)
        raise
    failed = gather(failed, job)
    finish(writer, pictures, job)
    return failed


def gather(failed: list[tuple[Path, str]], job: Job) -> list[tuple[Path, str]]:
    """Wait for all processes; the files that any of them could not read."""
    if job.processes == 1:
        return failed
    everyone: list[Any] = [None] * job.processes
    distributed.all_gather_object(everyone, failed)
    return sorted(sum(everyone, []))


def finish(writer: Writer, pictures: Pictures | None, job: Job) -> None:
    """Complete what is open; the list of results is the first process's."""
    if pictures is not None:
        pictures.close()
    if job.rank == 0:
        print(f"wrote {writer.close()}" + ("" if pictures is None else f" and pictures to {pictures.folder}"))


def is_done(writer: Writer, pictures: Pictures | None, path: Path, job: Job) -> bool:
    """Whether an earlier run has finished a file and nothing that it wrote is missing."""
    if not isinstance(writer, ResumableWriter) or (pictures is not None and not pictures.path(path).is_file()):
        return False
    frames = count_frames(path) if path.suffix.lower() in VIDEO_SUFFIXES else None
    return writer.is_done(job.name(path), frames)


def write_all(
    predictions: Iterator[Prediction],
    writer: Writer,
    pictures: Pictures | None,
    job: Job,
    failed: list[tuple[Path, str]],
) -> None:
    """Draw and encode in threads while the model works; no more than a few pictures wait."""

    def write(source: Source, prediction: Prediction) -> NDArray[np.uint8] | None:
        picture = writer.write(job.name(source.path), prediction.image, prediction.sample, source.frame)
        if pictures is not None and picture is not None and source.frame is None:
            pictures.add_image(source, picture)
        return picture

    def finish_first() -> None:
        source, _, future = waiting.popleft()
        picture = future.result()
        if pictures is not None and picture is not None and source.frame is not None:
            pictures.add_frame(source, picture)

    waiting: deque[tuple[Source, int, Future[NDArray[np.uint8] | None]]] = deque()
    with ThreadPoolExecutor(2) as pool:
        for prediction in predictions:
            if prediction.error is not None:
                failed.append((prediction.source.path, str(prediction.error)))
                continue
            size = prediction.image.shape[-2] * prediction.image.shape[-1]
            waiting.append((prediction.source, size, pool.submit(write, prediction.source, prediction)))
            while len(waiting) > 4 or sum(size for _, size, _ in waiting) > _PIXELS_TO_WRITE:
                finish_first()
        while waiting:
            finish_first()


def track(predictions: Iterator[Prediction], total: int | None, job: Job) -> Iterator[Prediction]:
    """Show a progress bar with images per second and the time left; of several processes only the first does."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    others = f" in each of {job.processes} processes" if job.processes > 1 else ""
    with Progress(*columns, console=Console(stderr=True), disable=job.rank > 0 or total == 0) as progress:
        task = progress.add_task("", total=total, rate="")
        for prediction in predictions:
            yield prediction
            speed = progress.tasks[task].speed
            rate = f"{speed:.1f} images/s{others}" if speed else ""
            progress.update(task, advance=1, description=prediction.source.path.name, rate=rate)


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    options = parse_arguments(arguments)
    Image.MAX_IMAGE_PIXELS = LARGEST_IMAGE
    try:
        failed = run(options)
    except (UserError, OSError, ValueError) as error:
        remedy = ""
        if isinstance(error, OSError) and is_full_disk(error):
            remedy = f"; free some space on the disk of {options.output} and give the same command again"
        print(f"error: {error}{remedy}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    for path, reason in failed if int(os.environ.get("RANK", "0")) == 0 else ():
        print(f"not read: {reason if str(path) in reason else f'{path}: {reason}'}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
