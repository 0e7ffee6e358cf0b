"""Make a small synthetic dataset: detection, segmentation, depth and video, in the formats of the usual datasets.

    pe-spatial demo --output demo/data --images 720 --image-size 128
    pe-spatial demo --words --output demo/words
    pe-spatial demo --output demo/small --images 90 --image-size 768 --objects 40 --object-size 8 24 --formats coco

    OUT/images/{train,val}/000001.jpg              one scene in six is for validation
    OUT/annotations/instances_{train,val}.json     coco: boxes and masks (RLE)
    OUT/labels/{train,val}/000001.png              labels: class indices wall, floor, disc, box, triangle
    OUT/classes.yaml                               labels: the names, colors and folders for SegmentationFolder
    OUT/annotations/panoptic_{train,val}.json      panoptic: COCO's format; wall and floor are stuff
    OUT/panoptic/{train,val}/000001.png            panoptic: ids of the segments
    OUT/depth/{train,val}/000001.png               depth: 16 bits, millimeters
    OUT/davis/{JPEGImages,Annotations}/480p/...    davis: videos with object ids, ImageSets/2017/val.txt
    OUT/demo.json                                  the arguments; written last, so it marks a complete dataset

Equal arguments give equal data. If the dataset is complete, a second run changes nothing.

--words trains a small PE-Core on scenes with captions (some minutes on a CPU) and writes it for `--encoder OUT`:

    OUT/pe_core.json, pe_core.safetensors          the model
    OUT/held_out/red disc on the left/000001.png   scenes of combinations of color, shape and place that it has not seen
    OUT/captions.json, classes.txt, templates.txt  captions of these, all classes, and the sentence of the captions
    OUT/videos.csv, videos/000001.mp4              the same as videos
    OUT/scenes/{images,labels}/{train,val}         scenes with the class of every pixel; classes.yaml describes them
    OUT/demo.json                                  its accuracy beside chance
"""

import argparse
from typing import Any

from pe_spatial.commands.options import CommandParser, add_shared, integer, names, number_in, positive
from pe_spatial.demo import FORMATS

# options that --words does not take, with their defaults
_UNUSED: dict[str, Any] = {
    "image_size": 128,
    "images": 720,
    "objects": None,
    "object_size": None,
    "formats": list(FORMATS),
    "videos": 3,
}
_UNUSED |= {"frames": 20, "video_size": [240, 426], "no_photographs": False}


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add_shared(parser, "--output", "--image-size", required=["--output"])
    parser.set_defaults(image_size=128)
    add("--images", type=positive, default=720, metavar="N", help="number of scenes; every sixth is for validation")
    add("--seed", type=integer(0), default=0, metavar="N", help="equal seeds give equal data")
    add(
        "--objects",
        type=positive,
        metavar="N",
        help="objects in a scene, less those that others hide; default: one to five",
    )
    sizes = "diameters of the objects in pixels; default: from a sixth to half of the side of the scene"
    add("--object-size", type=number_in(4), nargs=2, metavar=("MIN", "MAX"), help=sizes)
    add("--formats", type=names(FORMATS), default=list(FORMATS), help=f"some of {','.join(FORMATS)}; default: all")
    add("--videos", type=integer(0), default=3, metavar="N", help="number of videos, for davis")
    add("--frames", type=positive, default=20, metavar="N", help="of a video")
    add("--video-size", type=integer(32), nargs=2, default=[240, 426], metavar=("H", "W"), help="in pixels")
    add("--words", action="store_true", help="train a small PE-Core on scenes with captions instead")
    add("--iterations", type=positive, metavar="N", help="steps of that training; default: 1500")
    add("--no-photographs", action="store_true", help="procedural textures only, also with scikit-image")
    add("--force", action="store_true", help="replace the dataset in the folder; other files there are kept")
    parser.add_old_spellings({"--size": "--image-size"}, ["--output"])


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """Refuse options that contradict each other."""
    if options.words:
        for name, value in _UNUSED.items():
            if getattr(options, name) != value:
                parser.error(f"--{name.replace('_', '-')} has no effect with --words; remove it")
        return
    if options.iterations is not None:
        parser.error(f"--iterations {options.iterations} is of a training; give --words too")
    if options.images < 6 and set(options.formats) - {"davis"}:
        parser.error(f"--images {options.images}: 6 or more are needed, because every sixth is for validation")
    if options.image_size < 32:
        parser.error(f"--image-size {options.image_size}: give 32 pixels or more, or shapes cannot be told apart")
    least, most = options.object_size or (4, 4)
    if least > most or most > options.image_size / 2:
        parser.error(
            f"--object-size {least:g} {most:g}: give the smaller first, and at most half of --image-size "
            f"{options.image_size}"
        )


def run(options: argparse.Namespace) -> int:
    """Write the dataset, or train the small PE-Core."""
    if options.words:
        return _write_words(options)
    from pe_spatial.demo.datasets import DemoSettings, write_demo

    settings = DemoSettings(
        size=options.image_size,
        photographs=not options.no_photographs,
        **{name: getattr(options, name) for name in ("images", "seed", "formats", "videos", "frames", "video_size")},
        **{name: getattr(options, name) for name in ("objects", "object_size")},
    )
    if write_demo(options.output, settings, options.force):
        print(f"wrote {options.output}: {', '.join(options.formats)}")
    else:
        print(f"{options.output} is complete already: {options.images} images, seed {options.seed}")
    return 0


def _write_words(options: argparse.Namespace) -> int:
    from pe_spatial.zero_shot.demo import write_words_demo
    from pe_spatial.zero_shot.training import TrainingSettings

    settings = {} if options.iterations is None else {"iterations": options.iterations}
    made = write_words_demo(options.output, TrainingSettings(seed=options.seed, **settings), options.force)
    if made is None:
        print(f"{options.output} is complete already: seed {options.seed}")
        return 0
    print(
        f"wrote {options.output}: on {made['scenes']} scenes of combinations that it has not seen, accuracy "
        f"{made['accuracy']:.1%} (chance {made['chance']:.1%}), color {made['accuracy_color']:.1%}, "
        f"shape {made['accuracy_shape']:.1%}, place {made['accuracy_place']:.1%}"
    )
    return 0
