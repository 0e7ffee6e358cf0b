"""Run a trained model over images, folders and videos.

    python tools/predict.py --checkpoint work_dirs/NAME --input photo.jpg --output OUT
    python tools/predict.py --checkpoint model.pth --input 'photos/**/*.jpg' --output OUT --threshold 0.3
    python tools/predict.py --checkpoint model.pth --input street.mp4 --output OUT

OUT/pictures mirrors the input: a drawn picture per image, a drawn video per video. Detections of all of them are in
OUT/predictions.json in COCO's format; depth is in 16-bit PNG files and OUT/depth.json.

Exit status: 0 done, 1 some files could not be read (the rest is done; they are named at the end), 2 a mistake in the
command or the files, 130 interrupted (what was done is written).
"""

import argparse
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from depth.writer import DepthWriter
from detection.writer import DetectionWriter
from pe_spatial.engine import Predictor, UserError
from pe_spatial.engine.stream import Prediction, Source, count_pictures, find_sources, stream


class Writer(Protocol):
    """What a task does with its predictions; called from several threads."""

    def write(self, name: str, image: Any, sample: Any, frame: int | None) -> NDArray[np.uint8]: ...

    def close(self) -> Path: ...


def make_writer(predictor: Predictor, options: argparse.Namespace) -> Writer:
    """The writer of the task that the checkpoint was trained for."""
    makers: dict[str, Callable[[], Writer]] = {
        "MaskRCNN": lambda: DetectionWriter(options.output, predictor.metainfo, options.threshold),
        "DepthModel": lambda: DepthWriter(options.output, options.npy, options.depth_colors),
    }
    model = predictor.config.model.type
    if model not in makers:
        raise UserError(
            f"{options.checkpoint}: tools/predict.py has no writer for {model}; it knows {', '.join(makers)}"
        )
    return makers[model]()


class Pictures:
    """Drawn pictures below a folder: a file per image, a video per video; frames arrive in order."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.root = root
        self._video: tuple[Path, cv2.VideoWriter] | None = None

    def name(self, source: Source) -> str:
        """The path of a source relative to the input."""
        return source.path.relative_to(self.root).as_posix()

    def add_image(self, source: Source, picture: NDArray[np.uint8]) -> None:
        """Save the picture of an image; may run in any thread."""
        path = self.folder / self.name(source)
        path = path.with_suffix(".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.writing{path.suffix}")
        Image.fromarray(picture).save(partial, quality=90)  # PNG has no use for it
        os.replace(partial, path)

    def add_frame(self, source: Source, picture: NDArray[np.uint8]) -> None:
        """Append a frame to the video of its source; call in order, from one thread."""
        path = (self.folder / self.name(source)).with_suffix(".mp4")
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
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score of a detection (default 0.5)")
    parser.add_argument("--npy", action="store_true", help="write depth as .npy files too")
    parser.add_argument(
        "--depth-colors",
        type=float,
        nargs=2,
        metavar=("NEAR", "FAR"),
        help="ends of the colour scale of depth; default: each image's own, and for a video the range of the model",
    )
    parser.add_argument("--limit", type=int, help="stop after this many files")
    parser.add_argument("--batch-size", type=int, default=1, help="images that go through the model at once")
    parser.add_argument("--device", help="for example cuda:1 or cpu; default: CUDA if there is any")
    parser.add_argument("--no-pictures", action="store_true", help="write the data only")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> list[tuple[Source, Exception]]:
    """Predict everything; returns the files that could not be read."""
    paths = find_sources(options.input)[: options.limit]
    options.output.mkdir(parents=True, exist_ok=True)
    predictor = Predictor(options.checkpoint, options.device, options.batch_size)
    writer = make_writer(predictor, options)
    root = Path(os.path.commonpath([path.parent for path in paths]))
    pictures = None if options.no_pictures else Pictures(options.output / "pictures", root)
    failed: list[tuple[Source, Exception]] = []
    try:
        predictions = track(stream(predictor, paths), count_pictures(paths))
        write_all(predictions, writer, pictures, root, failed)
    finally:  # also on Ctrl-C: what was predicted is kept
        if pictures is not None:
            pictures.close()
        print(f"wrote {writer.close()}" + ("" if pictures is None else f" and pictures to {pictures.folder}"))
    return failed


def write_all(
    predictions: Iterator[Prediction],
    writer: Writer,
    pictures: Pictures | None,
    root: Path,
    failed: list[tuple[Source, Exception]],
) -> None:
    """Draw and encode in threads while the model works; no more than a few pictures wait."""

    def write(source: Source, prediction: Prediction) -> NDArray[np.uint8]:
        name = source.path.relative_to(root).as_posix()
        picture = writer.write(name, prediction.image, prediction.sample, source.frame)
        if pictures is not None and source.frame is None:
            pictures.add_image(source, picture)
        return picture

    def finish(source: Source, future: Future[NDArray[np.uint8]]) -> None:
        picture = future.result()
        if pictures is not None and source.frame is not None:
            pictures.add_frame(source, picture)

    waiting: deque[tuple[Source, Future[NDArray[np.uint8]]]] = deque()
    with ThreadPoolExecutor(2) as pool:
        for prediction in predictions:
            if prediction.error is not None:
                failed.append((prediction.source, prediction.error))
                continue
            waiting.append((prediction.source, pool.submit(write, prediction.source, prediction)))
            if len(waiting) > 4:
                finish(*waiting.popleft())
        while waiting:
            finish(*waiting.popleft())


def track(predictions: Iterator[Prediction], total: int | None) -> Iterator[Prediction]:
    """Show a progress bar with images per second and the time left."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, rate="")
        for prediction in predictions:
            yield prediction
            speed = progress.tasks[task].speed
            rate = f"{speed:.1f} images/s" if speed else ""
            progress.update(task, advance=1, description=prediction.source.path.name, rate=rate)


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    options = parse_arguments(arguments)
    try:
        failed = run(options)
    except (UserError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    for source, reason in failed:
        print(f"not read: {source.path}: {reason}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
