"""Show the features of an encoder: principal components as colors, and similarity to one token.

    pe-spatial visualize --encoder PE-Spatial-B16-512 --input photo.jpg --output OUT --layers 5,8,11
    pe-spatial visualize --encoder PE-Core-B16-224 --weights FILE --input photos --output OUT --image-size 448
    pe-spatial visualize --checkpoint work_dirs/NAME --input street.mp4 --output OUT --foreground
    pe-spatial visualize --encoder PE-Spatial-B16-512 --input photo.jpg --output OUT --point 320,200

Every picture shows the image and, for each layer, its features (Perception Encoder, appendix B.3.2: half-blurred, three
principal components, a color in LCh), and with --point the cosine similarity of every token to the one at that pixel.
All frames of a video share the colors of a layer, and images do with --shared; two layers never share theirs.

Exit status: 0 done, 1 some files could not be read, 2 a mistake in the command or the files, 130 interrupted.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pe_spatial.commands.encoder_options import add_encoder, check_encoder, open_extractor
from pe_spatial.commands.options import CommandParser, add_shared, numbers
from pe_spatial.common.console import Bar, print_warning, progress

if TYPE_CHECKING:
    from pe_spatial.commands.feature_drawing import Painter

FRAMES_IN_BASIS = 24  # of a video, evenly spaced; 24 maps of PE-G are 150 MB


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add_encoder(parser)
    add_shared(parser, "--input", "--output", required=["--input", "--output"])
    add_shared(parser, "--limit", "--device", "--image-size", "--max-pixels", "--allow-import")
    parser.set_defaults(layers=[-1])
    pixel = numbers("X,Y in pixels", 2)
    add("--point", type=pixel, metavar="X,Y", help="also show similarity to the token at this pixel")
    add("--foreground", action="store_true", help="color the foreground only")
    add("--shared", action="store_true", help="use the same colors for all images")
    parser.add_old_spellings({"--size": "--image-size"})


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """Refuse options that contradict each other."""
    check_encoder(options, parser)


def run(options: argparse.Namespace) -> int:
    """Draw everything; returns 1 if some files could not be read."""
    from pe_spatial.commands.feature_drawing import Painter
    from pe_spatial.common.errors import UnreadableFile
    from pe_spatial.common.names import output_stems
    from pe_spatial.common.pictures import read_image, save_image
    from pe_spatial.common.sources import outside, resolve_sources
    from pe_spatial.inference.stream import count_pictures

    found = resolve_sources(options.input)
    if found.warning:
        print_warning(found.warning)
    entries = outside(found, options.output)[: options.limit]
    painter = Painter(open_extractor(options), options)
    stems = output_stems(entry.name for entry in entries)
    images = [entry for entry in entries if entry.kind == "image"]
    if options.shared and images:
        chosen = images[:: -(-len(images) // FRAMES_IN_BASIS)]
        painter.fit(read_image(entry.path, archive=entry.archive) for entry in chosen)
    failed: list[str] = []
    with progress("", count_pictures(entries), "images") as bar:
        for entry in [*images, *(entry for entry in entries if entry.kind == "video")]:
            output = options.output / stems[entry.name]
            try:
                if entry.kind == "video":
                    draw_video(painter, entry.path, output.with_name(f"{output.name}.mp4"), bar)
                else:
                    picture = painter(read_image(entry.path, archive=entry.archive))
                    save_image(output.with_name(f"{output.name}.png"), picture)
                    bar.advance()
            except UnreadableFile as error:
                failed.append(str(error))
    print(f"wrote {len(entries) - len(failed)} of {len(entries)} files to {options.output}")
    for reason in failed:
        print_warning(f"not read: {reason}")
    return 1 if failed else 0


def draw_video(painter: "Painter", path: Path, output: Path, bar: Bar) -> None:
    """Draw a video with one basis of colors."""
    from pe_spatial.common.video import VideoReader, VideoWriter, count_frames

    count = count_frames(path)
    step = -(-count // FRAMES_IN_BASIS)
    with VideoReader(path) as video, VideoWriter(output, video.frame_rate) as writer:
        painter.fit(frame.image for frame in video if frame.number % step == 0)
        for frame in video:
            writer.write(painter(frame.image), frame.time, frame.duration)
            bar.advance(description=path.name)
