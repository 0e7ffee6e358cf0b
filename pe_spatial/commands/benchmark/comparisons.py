"""What `pe-spatial benchmark all` compares: one entry for each run of another benchmark."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pe_spatial.common.errors import UserError

Report = Mapping[str, Any]


class Figure(NamedTuple):
    """One number of a run.

    Args:
        partner: What ours is compared with.
        ratio: How many times as fast ours is.
        ours: How fast it is.
        unit: Of `ours`.
    """

    partner: str
    ratio: float
    ours: float
    unit: str


class Comparison(NamedTuple):
    """A run of a benchmark, and the rows of the table that its report fills.

    Args:
        name: What `--only` takes.
        subcommand: Of `pe-spatial benchmark`.
        arguments: Of it; `PICTURES` stands for pictures of `--input`, or ones that are drawn.
        quick: The same for `--quick`, small; None: left out there.
        rows: Their first cells.
        figures: Reads one figure for each row from a report.
    """

    name: str
    subcommand: str
    arguments: str
    quick: str | None
    rows: tuple[str, ...]
    figures: Callable[[Report], Sequence[Figure]]


def of_backbone(report: Report) -> list[Figure]:
    """The encoder, forward."""
    (row,) = report["rows"]
    if "timm_over_ours" not in row:
        raise UserError("timm is not installed, or has no such model; pip install 'pe_spatial[timm]'")
    return [Figure("timm", row["timm_over_ours"], row["ours_ms"], "ms")]


def of_segmentation(report: Report) -> list[Figure]:
    """A folder, from files to label maps."""
    return [Figure("mmseg's MMSegInferencer", report["ratio"], report["ours_images_per_s"], "pictures/s")]


def of_tracking(report: Report) -> list[Figure]:
    """A clip of features, with the mask of neighbors that the script builds once."""
    per_second = (report["frames"] - 1) / report["ours"]
    return [Figure("the logic of DINO's script", report["ratio"], per_second, "frames/s")]


def of_deformable(report: Report) -> list[Figure]:
    """One layer, forward and backward."""
    theirs, ours = report["rows"][:2]
    return [
        Figure("grid_sample", theirs[f"{kind}_s"] / ours[f"{kind}_s"], ours[f"{kind}_s"] * 1e3, "ms")
        for kind in ("forward", "backward")
    ]


def of_shared(report: Report) -> list[Figure]:
    """All heads in one pass."""
    return [Figure("one after the other", 1 / report["shared_over_sum"], 1 / report["shared_s"], "pictures/s")]


def of_coco(report: Report) -> list[Figure]:
    """The twelve numbers."""
    return [Figure("pycocotools", report["ratio"], report["ours_s"] * 1e3, "ms")]


def of_detector(report: Report) -> list[Figure]:
    """A folder, from files to predictions.json."""
    return [Figure("its model alone", report["of_the_model"], report["folder_images_per_s"], "pictures/s")]


def of_features(report: Report) -> list[Figure]:
    """A folder, from files to files."""
    ours = report["features_images_per_wall_s"]
    return [Figure("its encoder alone", report["of_the_encoder_by_wall"], ours, "pictures/s")]


def of_text(report: Report) -> list[Figure]:
    """Texts and pictures."""
    rows = {row["what"]: row for row in report["rows"]}
    return [
        Figure("open_clip", row["open_clip_over_ours"], row["ours_s"] * 1e3, "ms")
        for row in (rows["text"], rows["image"])
    ]


# how ours runs -> arguments, and what the row says
_SETTINGS = {
    "": ("", ""),
    "fast": (" --precision auto", ", as fast as the processor allows (--precision auto)"),
    "exported": (" --engine onnxruntime", ", exported (ONNX, fp32)"),
}


def _encoder(size: str, quick: str | None) -> Comparison:
    variant = f"PE-Spatial-{size}-512"
    arguments = f"--variant {variant} --rounds 5"
    return Comparison(f"encoder-{size[0]}", "backbone", arguments, quick, (f"{variant}, one picture",), of_backbone)


def _segmentation(encoder: str, classes: int, quick: str | None = None, how: str = "") -> Comparison:
    name = f"linear_pe_spatial_{encoder.lower()}_ade20k_40k"
    arguments = (
        f"--input PICTURES --limit 4 --rounds 1 --config {name} --classes {classes} {_SETTINGS[how][0]}".rstrip()
    )
    row = f"segmentation of a folder, PE-Spatial-{encoder}, {classes} classes{_SETTINGS[how][1]}"
    end = f"-{how}" if how else ""
    return Comparison(
        f"segmentation-{encoder[0]}-{classes}{end}", "segmentation", arguments, quick, (row,), of_segmentation
    )


# a further row is an entry here
COMPARISONS: tuple[Comparison, ...] = (
    _encoder("T16", "--variant PE-Spatial-T16-512 --image-size 64 --rounds 1"),
    _encoder("S16", None),
    _encoder("B16", None),
    _segmentation(
        "T16", 19, "--input PICTURES --limit 1 --rounds 1 --config demo/seg_linear_tiny_shapes.yaml --classes 5"
    ),
    _segmentation("T16", 150),
    _segmentation("B16", 19),
    _segmentation("B16", 150),
    *(_segmentation(encoder, classes, how="fast") for encoder in ("T16", "B16") for classes in (19, 150)),
    _segmentation("T16", 19, how="exported"),
    Comparison(
        "detector",
        "detector",
        "--limit 4 --rounds 1",
        "--limit 1 --rounds 1 --config demo/mask_rcnn_tiny_shapes.yaml",
        ("detection of a folder, Mask R-CNN on PE-Spatial-S16 at 640",),
        of_detector,
    ),
    Comparison(
        "shared",
        "shared",
        "--rounds 1 --clock wall",
        "--heads seg,depth --image-size 64 --pictures 1 --rounds 1",
        ("three heads on one frozen PE-Spatial-T16",),
        of_shared,
    ),
    Comparison(
        "features",
        "features",
        "--rounds 1",
        "--image-size 64 --limit 2 --rounds 1",
        ("features of a folder, PE-Spatial-T16",),
        of_features,
    ),
    Comparison(
        "deformable",
        "deformable",
        "--image-size 1024 --no-memory --rounds 1",
        "--image-size 64 --no-memory --rounds 1",
        ("DETA's deformable attention at 1024, forward", "DETA's deformable attention at 1024, backward"),
        of_deformable,
    ),
    Comparison(
        "tracking",
        "tracking",
        "--frames 50",
        "--grid 5 9 --channels 8 --frames 5",
        ("label propagation, 480p, 50 frames of PE-Spatial-T16",),
        of_tracking,
    ),
    Comparison(
        "text",
        "text",
        "--rounds 3",
        None,
        ("PE-Core-T16-384, 64 texts", "PE-Core-T16-384, 2 pictures"),
        of_text,
    ),
    Comparison(
        "coco",
        "coco",
        "--images 500 --rounds 1",
        "--images 10 --rounds 1",
        ("COCO's average precision of boxes",),
        of_coco,
    ),
)
