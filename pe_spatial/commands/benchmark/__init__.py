"""Measure speed and memory on this machine, and compare our numbers with the official ones.

    pe-spatial benchmark all
    pe-spatial benchmark backbone --variant PE-Spatial-T16-512
    pe-spatial benchmark backbone --device cuda --dtype bf16 --mode eager,compiled --pass forward,backward
    pe-spatial benchmark tracking --channels 768
    pe-spatial benchmark deformable
    pe-spatial benchmark features
    pe-spatial benchmark teacher --input photos --image-size 256
    pe-spatial benchmark segmentation --input photos --memory 4000 6000
    pe-spatial benchmark text --variant PE-Core-T16-384
    pe-spatial benchmark search
    pe-spatial benchmark coco
    pe-spatial benchmark detector
    pe-spatial benchmark fidelity

`--json FILE` also writes the figures to a file.
"""
# the arguments of all stand here; each runs in the module of its name beside this one

import argparse
from importlib import import_module
from pathlib import Path

from pe_spatial.commands.options import CommandParser, add_shared, integer, names, positive


def add_all(parser: CommandParser) -> None:
    """Ours against the field's, all in one table with ratios and their spread.

        pe-spatial benchmark all
        pe-spatial benchmark all --quick
        pe-spatial benchmark all --repeats 5 --document docs/speed.md

    Runs the other benchmarks one after the other, and all of that several times in turning order: encoders, folders of
    segmentation, detection and features, a shared pass, deformable attention, tracking, text and COCO's evaluation. The
    row of a partner that is not installed says so. --quick takes tiny sizes: it shows that all runs, not how fast.
    """
    _add_common(parser)
    add = parser.add_argument
    add_shared(parser, "--input")
    add("--repeats", type=positive, default=3, metavar="N", help="of the whole")
    add("--quick", action="store_true", help="tiny sizes")
    add("--only", type=_listed, metavar="NAME,NAME", help="some of the comparisons, such as encoder-T,coco")
    add("--document", type=Path, metavar="FILE", help="write the table between its two marks in this file")


def add_backbone(parser: CommandParser) -> None:
    """An encoder against timm's model of the same name.

        pe-spatial benchmark backbone --variant PE-Spatial-T16-512

    Both run in alternating rounds. Without timm, ours alone is timed.
    """
    _add_common(parser, rounds=10)
    add = parser.add_argument
    add("--variant", default="PE-Spatial-T16-512", help="official name of the encoder")
    add("--dtype", type=names(["fp32", "bf16"]), default=["fp32"], help="fp32, bf16 or both with a comma")
    add("--mode", type=names(["eager", "compiled"]), default=["eager"], help="eager, compiled or both with a comma")
    add("--pass", dest="passes", type=names(["forward", "backward"]), default=["forward"], help="one, or both")
    add_shared(parser, "--batch-size", "--image-size")
    parser.add_old_spellings({"--batch": "--batch-size", "--size": "--image-size"})


def add_coco(parser: CommandParser) -> None:
    """COCO's average precision of boxes against pycocotools.

        pe-spatial benchmark coco
        pe-spatial benchmark coco --images 5000

    Both score the same synthetic boxes from lists in memory and take turns. The largest difference of the twelve
    numbers is reported.
    """
    _add_common(parser, rounds=3, clock="wall", device=False)
    add = parser.add_argument
    add("--images", type=positive, default=500, metavar="N", help="images")
    add("--objects", type=positive, default=7, metavar="N", help="in each")
    add("--detections", type=positive, default=100, metavar="N", help="in each")
    add("--classes", type=positive, default=80, metavar="N", help="of the objects")


def add_deformable(parser: CommandParser) -> None:
    """DETA's multi-scale deformable attention against `grid_sample`, the reference of Deformable DETR.

        pe-spatial benchmark deformable
        pe-spatial benchmark deformable --image-size 1024 --dtype float32 bfloat16 --clock cpu --rounds 3

    Both get the values, locations and weights of one layer of DETA's encoder (8 heads of 32 channels, 5 levels, 4
    points). They take turns. Memory is the peak of a process of its own that runs the pass once, less the peak of one
    that only makes the inputs. On CUDA it is that of the allocator.
    """
    _add_common(parser, rounds=3, clock="wall")
    add = parser.add_argument
    add_shared(parser, "--image-size")
    parser.set_defaults(image_size=1824)
    add("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"], help="of the values")
    add("--chunk", type=positive, default=16384, metavar="N", help="queries at once where ours works in parts")
    add("--no-memory", action="store_true", help="do not measure memory")
    parser.add_old_spellings({"--size": "--image-size"})


def add_detector(parser: CommandParser) -> None:
    """Detection of a folder, from JPEG to predictions.json, against the model alone on pictures that are ready.

        pe-spatial benchmark detector
        pe-spatial benchmark detector --input photos --config own/detection_deta.yaml

    The model of a recipe has 20 classes and random weights, which find as many objects as the figures say. Both take
    turns. Without --input, JPEG files of 480 x 640 pixels are made.
    """
    _add_common(parser, rounds=3, clock="wall")
    add_shared(parser, "--input", "--config", "--limit", "--batch-size", "--allow-import")
    parser.set_defaults(config="own/detection_mask_rcnn.yaml", limit=8)


def add_features(parser: CommandParser) -> None:
    """Features to files, from JPEG to disk, against the encoder alone on pictures that are ready in memory.

        pe-spatial benchmark features
        pe-spatial benchmark features --input photos --limit 64 --encoder PE-Spatial-B16-512 --batch-size 4

    Both take turns on the same pictures (random weights, which does not change the speed). The share of the encoder's
    own images per second is shown by wall time, and by the time of the processor, for a busy machine. Without --input,
    JPEG files of 480 x 640 pixels are made.
    """
    _add_common(parser, rounds=3)
    add = parser.add_argument
    add("--encoder", default="PE-Spatial-T16-512", metavar="NAME", help="a released encoder")
    add("--format", choices=("safetensors", "npy", "zarr", "tar"), default="safetensors", help="of the files")
    add_shared(parser, "--input", "--limit", "--image-size", "--batch-size")
    parser.set_defaults(limit=16, batch_size=8)


def add_fidelity(parser: CommandParser) -> None:
    """What the official implementations returned against what ours return, on the CPU in float32.

        pe-spatial benchmark fidelity
        pe-spatial benchmark fidelity --golden tests/data --document docs/measurements/fidelity.md

    The golden files hold the official numbers for small models whose weights follow from their names. All comparisons
    whose files are in the folder are made; the table has the largest difference of each, and those from which on it
    does not pass. The exit status is 1 if one does not.
    """
    add = parser.add_argument
    add("--golden", type=Path, metavar="FOLDER", help="the golden files; default: tests/data of the checkout")
    add("--document", type=Path, metavar="FILE", help="write the table between its two marks in this file")
    _add_common(parser, device=False)


def add_search(parser: CommandParser) -> None:
    """Exact search in random rows against one product with all of them in memory.

        pe-spatial benchmark search                                    1 million rows of 512 channels, float32
        pe-spatial benchmark search --rows 200000 --channels 1024 --dtype fp16 --queries 64

    Both find the same rows and take turns. The memory is that of arrays at its peak, without the pages of the
    mapped file, which the system takes back when it needs them.
    """
    _add_common(parser, rounds=5, device=False)
    add = parser.add_argument
    add("--rows", type=positive, default=1_000_000, metavar="N", help="of the index")
    add("--channels", type=positive, default=512, metavar="N", help="of a row")
    add("--dtype", choices=("fp32", "fp16"), default="fp32", help="of the file")
    add("--queries", type=positive, default=1, metavar="N", help="at once")
    add("--top-k", type=positive, default=10, metavar="N", help="hits of each")
    add("--folder", type=Path, metavar="PATH", help="for the file of the rows; default: that of temporary files")


def add_segmentation(parser: CommandParser) -> None:
    """Prediction of a folder against mmseg's MMSegInferencer, with the same weights and windows.

        pe-spatial benchmark segmentation --input photos
        pe-spatial benchmark segmentation --input photos --config linear_pe_spatial_b16_ade20k_40k --classes 19
        pe-spatial benchmark segmentation --input photos --engine auto

    Both read the images, slide the window of the recipe over them at their own size, and write one label PNG per image.
    mmseg's pictures are switched off. They take turns, folder by folder. Random weights do not change the speed; how
    often the labels agree is reported. mmseg keeps the scores of all images of a call, so it is given a few images at a
    time. Its encoder is ours, with the operators and the memory that PyTorch gives every model. With --engine, ours is
    exported first and runs there.

    --memory H W then segments one synthetic image of that size with each, in a process of its own, and reports the peak
    of its resident memory. mmseg holds the scores of all classes for the whole image several times: choose few classes.
    """
    _add_common(parser, rounds=3)
    add = parser.add_argument
    add_shared(
        parser, "--input", "--config", "--limit", "--engine", "--precision", "--allow-import", required=["--input"]
    )
    parser.set_defaults(config="linear_pe_spatial_t16_ade20k_40k", limit=8)
    add("--classes", type=positive, default=150, metavar="N", help="of the model")
    add("--weights", type=Path, metavar="FILE", help="a checkpoint of that model; default: random weights")
    add("--memory", type=positive, nargs=2, metavar=("H", "W"), help="also measure the memory of one image")
    add("--memory-classes", type=positive, nargs=2, default=(19, 19), metavar=("OURS", "MMSEG"), help="for --memory")


def add_shared_pass(parser: CommandParser) -> None:
    """Several heads on one frozen encoder against each of them alone.

        pe-spatial benchmark shared
        pe-spatial benchmark shared --heads seg,dpt --variant PE-Spatial-S16-512

    Mask R-CNN, a linear segmenter, linear depth and DPT of the recipes for own data, with 20 classes and random
    weights, see the same pictures whole, from a picture in memory to its predictions; nothing is written. They take
    turns.
    """
    _add_common(parser, rounds=3, clock="cpu")
    add = parser.add_argument
    add_shared(parser, "--image-size")
    parser.set_defaults(image_size=512)
    heads = ("det", "seg", "depth", "dpt")
    add("--heads", type=names(heads), default=heads[:3], metavar="NAME,NAME", help=f"some of {', '.join(heads)}")
    add("--variant", default="PE-Spatial-T16-512", metavar="NAME", help="of the encoder")
    add("--pictures", type=positive, default=3, metavar="N", help="in a turn")


def add_teacher(parser: CommandParser) -> None:
    """The mask teacher against SAM 2's automatic mask generator on the same points.

        pe-spatial benchmark teacher --input photos --image-size 256          random weights, in minutes on a CPU
        pe-spatial benchmark teacher --input photos --size large --weights FILE --device cuda

    Both decode one embedding with a point in every cell of the grid, 64 points at a time. The generator keeps every
    mask, as it must for a map with one channel per point (its thresholds are 0 and it suppresses none). It upsamples
    the logits to the size of the image, thresholds them and encodes the masks. The teacher downsamples the logits to
    the grid. They take turns.
    """
    _add_common(parser, clock="cpu")
    add = parser.add_argument
    add_shared(parser, "--input", "--limit", "--image-size", required=["--input"])
    parser.set_defaults(limit=3, image_size=1024)
    add("--size", default="tiny", help="of SAM 2.1")
    add("--weights", default="random", help="of SAM 2.1: a file, or random")
    add("--grid", type=positive, default=32, metavar="N", help="points per side")
    parser.add_old_spellings({"--images": "--limit"})


def add_text(parser: CommandParser) -> None:
    """PE-Core's two halves against open_clip's on the same weights.

        pe-spatial benchmark text --variant PE-Core-T16-384 --clock cpu --threads 1

    Both get the same tokens and the same pictures and take turns. open_clip computes all places of the context; ours
    stop at the longest text of the batch, and a second row has the time without that.
    """
    _add_common(parser, rounds=5, clock="wall")
    add = parser.add_argument
    add("--variant", default="PE-Core-T16-384", help="official name of a PE-Core")
    add("--texts", type=positive, default=64, metavar="N", help="at once")
    add_shared(parser, "--batch-size")
    parser.set_defaults(batch_size=2)


def add_tracking(parser: CommandParser) -> None:
    """Label propagation against the logic of DINO's script on the same features.

        pe-spatial benchmark tracking                          480p: 30 x 52 tokens of PE-Spatial-T, 50 frames
        pe-spatial benchmark tracking --channels 768 --dtype bfloat16 --device cuda

    Both propagate the labels of a clip of random features, frame by frame in turn: the first frame and the last 7 as
    context, radius 12, top 5. The script builds its neighborhood mask with nested loops, once. Then it computes the
    whole affinity of every frame, exponentiates, masks, transposes, selects and multiplies.

    The bound is the time of one matrix product with as many operations as there are products inside the neighborhoods.
    Above it are keys that only some queries of a tile need, border handling and the selection.
    """
    _add_common(parser, clock="wall")
    add = parser.add_argument
    add("--grid", type=positive, nargs=2, default=(30, 52), metavar=("ROWS", "COLUMNS"), help="tokens")
    add("--channels", type=positive, default=192, metavar="N", help="of a token: 192 for PE-Spatial-T, 768 B, 1536 G")
    add("--frames", type=integer(2), default=50, metavar="N", help="of the clip")
    add("--objects", type=positive, default=2, metavar="N", help="that are tracked")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of our features")


def _listed(text: str) -> list[str]:
    return text.split(",")


def _add_common(
    parser: CommandParser, rounds: int | None = None, clock: str | None = None, device: bool = True
) -> None:
    """Add the options that all, or several, benchmarks have."""
    if device:
        add_shared(parser, "--device")
    else:
        parser.set_defaults(device="cpu")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads; default: all cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    if rounds is not None:
        help_text = "timed rounds, after one to warm up; 0: none"
        parser.add_argument("--rounds", type=integer(0), default=rounds, metavar="N", help=help_text)
    if clock is not None:
        help_text = "cpu: the time of this process, for a busy machine"
        parser.add_argument("--clock", choices=("wall", "cpu"), default=clock, help=help_text)


SUBCOMMANDS = {
    "all": add_all,
    "backbone": add_backbone,
    "coco": add_coco,
    "deformable": add_deformable,
    "detector": add_detector,
    "features": add_features,
    "fidelity": add_fidelity,
    "search": add_search,
    "segmentation": add_segmentation,
    "shared": add_shared_pass,
    "teacher": add_teacher,
    "text": add_text,
    "tracking": add_tracking,
}


def run(options: argparse.Namespace) -> int:
    """Run one benchmark, print its figures, and write them to `--json`."""
    import torch

    from pe_spatial.commands.benchmark.measuring import show
    from pe_spatial.common.devices import available_cores, choose_device, device_name
    from pe_spatial.common.files import write_json

    options.device = str(choose_device(options.device))
    options.threads = options.threads or available_cores()
    threads = torch.get_num_threads()
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    try:
        benchmark = import_module(f"pe_spatial.commands.benchmark.{options.subcommand}")
        name = device_name(options.device)
        machine = {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads()}
        show(machine)
        report = {**machine, **benchmark.run(options)}
    finally:  # what else runs in this process would add numbers up in another order
        torch.set_num_threads(threads)
    if options.json:
        write_json(options.json, report)
    return 1 if report.get("exceeded") else 0
