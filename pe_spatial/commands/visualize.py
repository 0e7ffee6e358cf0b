"""See the features of an encoder: principal components as colors, and what is similar to one token.

    pe-spatial visualize --encoder PE-Spatial-B16-512 --input photo.jpg --output OUT --layers 5,8,11
    pe-spatial visualize --encoder PE-Core-B16-224 --weights FILE --input photos --output OUT --image-size 448
    pe-spatial visualize --checkpoint work_dirs/NAME --input street.mp4 --output OUT --foreground
    pe-spatial visualize --encoder PE-Spatial-B16-512 --input photo.jpg --output OUT --point 320,200

Every picture shows the image and, for each layer, its features (Perception Encoder, appendix B.3.2: half-blurred, three
principal components, a color in LCh), and with --point the cosine similarity of every token to the one at that pixel.
All frames of a video share the colors of a layer, and images do with --shared; two layers never share theirs.

Exit status: 0 done, 1 some files could not be read, 2 a mistake in the command or the files, 130 interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pe_spatial.commands.options import CommandParser, add_shared
from pe_spatial.common.console import print_warning, track

if TYPE_CHECKING:
    from torch import Tensor

    from pe_spatial.commands.feature_drawing import Painter

FRAMES_IN_BASIS = 24  # of a video, evenly spaced; 24 maps of PE-G are 150 MB


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    encoder = parser.add_mutually_exclusive_group(required=True)
    encoder.add_argument("--encoder", metavar="NAME", help="a released encoder such as PE-Spatial-B16-512")
    add_shared(encoder, "--checkpoint")
    add("--weights", help="of --encoder: a file, a name, or 'none' for random ones; default: the released ones")
    add_shared(parser, "--input", "--output", "--limit", "--device", "--image-size", required=["--input", "--output"])
    add("--layers", default="-1", help="blocks from 0, or from the end if negative, with commas")
    add("--point", type=parse_point, metavar="X,Y", help="also show what is similar to the token at this pixel")
    add("--foreground", action="store_true", help="color the foreground only")
    add("--shared", action="store_true", help="one basis of colors for all images")
    parser.add_old_spellings({"--size": "--image-size"})


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """Refuse options that contradict each other."""
    if options.checkpoint and options.weights:
        parser.error("--weights belongs to --encoder; a checkpoint has its own")


def parse_point(text: str) -> tuple[float, float]:
    """The pixel of `X,Y`."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y in pixels") from error
    return x, y


def run(options: argparse.Namespace) -> int:
    """Draw everything; returns 1 if some files could not be read."""
    from pe_spatial.commands.feature_drawing import Painter, load_encoder
    from pe_spatial.common.records import output_stems
    from pe_spatial.data import read_image
    from pe_spatial.inference.stream import VIDEO_SUFFIXES, find_sources, source_root

    paths = find_sources(options.input)[: options.limit]
    painter = Painter(load_encoder(options), options)
    names = {path: path.relative_to(source_root(options.input)).as_posix() for path in paths}
    stems = output_stems(names.values())
    images = [path for path in paths if path.suffix.lower() not in VIDEO_SUFFIXES]
    if options.shared and images:
        painter.fit(read_image(path) for path in images[:: -(-len(images) // FRAMES_IN_BASIS)])
    failed: list[str] = []
    for path in track(images, "images", unit="images", shown=bool(images)):
        with noting(failed):
            save(painter(read_image(path)), options.output / f"{stems[names[path]]}.png")
    for path in paths:
        if path not in images:
            with noting(failed):
                draw_video(painter, path, options.output / f"{stems[names[path]]}.mp4")
    print(f"wrote {len(paths) - len(failed)} of {len(paths)} files to {options.output}")
    for reason in failed:
        print_warning(f"not read: {reason}")
    return 1 if failed else 0


@contextmanager
def noting(failed: list[str]) -> Iterator[None]:
    """Go on with the next file after one that cannot be read."""
    from pe_spatial.data import UnreadableFile

    try:
        yield
    except UnreadableFile as error:
        failed.append(str(error))


def save(picture: Tensor, path: Path) -> None:
    """Write a picture uint8 [3, H, W]."""
    from pe_spatial.common.pictures import save_image

    save_image(path, picture)


def draw_video(painter: Painter, path: Path, output: Path) -> None:
    """Draw a video with one basis of colors."""
    import cv2
    import numpy as np

    from pe_spatial.common.errors import UserError

    count = sum(1 for _ in frames(path))
    step = -(-count // FRAMES_IN_BASIS)
    painter.fit(image for number, (image, _) in enumerate(frames(path)) if number % step == 0)
    output.parent.mkdir(parents=True, exist_ok=True)
    writer: cv2.VideoWriter | None = None
    try:
        for image, rate in track(frames(path), path.name, count, "frames"):
            picture = painter(image)
            if writer is None:
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(output), codec, rate, (picture.shape[2], picture.shape[1]))
                if not writer.isOpened():
                    raise UserError(f"{output}: this OpenCV cannot write MP4 video; draw the frames as images")
            writer.write(np.ascontiguousarray(picture.flip(0).permute(1, 2, 0).numpy()))  # OpenCV wants BGR
    finally:
        if writer is not None:
            writer.release()


def frames(path: Path) -> Iterator[tuple[Tensor, float]]:
    """Frames uint8 [3, H, W] and the frame rate.

    Raises:
        UnreadableFile: It is no video.
    """
    import numpy as np

    from pe_spatial.data import to_image
    from pe_spatial.inference.stream import read_frames

    for source, picture in read_frames(path):
        if isinstance(picture, Exception):
            raise picture
        assert isinstance(picture, np.ndarray)
        yield to_image(picture), source.frames_per_second or 25.0
