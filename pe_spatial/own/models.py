"""Which models a task has, and what their names mean: `mask_rcnn-s` is a family and the size of its encoder."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pe_spatial.common.errors import OptionError, suggest

TINY = "tiny"  # four blocks from scratch, with small heads: for trials and tests
SIZES: dict[str, str] = {
    "t": "PE-Spatial-T16-512",
    "s": "PE-Spatial-S16-512",
    "b": "PE-Spatial-B16-512",
    "l": "PE-Spatial-L14-448",
    "g": "PE-Spatial-G14-448",
}
_CORES: dict[str, str] = {
    "t": "PE-Core-T16-384",
    "s": "PE-Core-S16-384",
    "b": "PE-Core-B16-224",
    "l": "PE-Core-L14-336",
    "g": "PE-Core-G14-448",
}
TINY_ENCODER = {
    "name": TINY,
    "patch_size": 16,
    "width": 128,
    "depth": 4,
    "heads": 4,
    "mlp_ratio": 4,
    "image_size": 256,
    "cls_token": False,
}


@dataclass(frozen=True)
class Family:
    """Models of one kind, of any size.

    Attributes:
        recipe: The config of size s, below `configs/own`.
        tiny: The part that makes it tiny, below `configs/_base_/tiny`.
        windowed: Whether the encoder attends in windows (`configs/_base_/backbones`).
        patch_size: That all encoders are resampled to; None leaves each its own.
        layers: Of a size whose best map is not the last.
        weights: Those that the encoder of each size begins with.
        taught: Of students: the recipe where a teacher is named; the other one takes the student's own beginning.
        several: Of students: the recipe where several teachers are named, or one that is no Perception Encoder.
    """

    recipe: str
    tiny: str
    windowed: bool = False
    patch_size: int | None = None
    layers: Mapping[str, list[int]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=lambda: SIZES)
    taught: str | None = None
    several: str | None = None


# the first family of a task is its default
TASKS: dict[str, dict[str, Family]] = {
    "detection": {
        "mask_rcnn": Family("detection_mask_rcnn", "mask_rcnn", windowed=True),
        "deta": Family("detection_deta", "deta", windowed=True),
    },
    "instances": {"mask_rcnn": Family("instances_mask_rcnn", "mask_rcnn", windowed=True)},
    "segmentation": {
        "mask_decoder": Family("segmentation_mask_decoder", "mask_decoder", patch_size=16),
        "upernet": Family("segmentation_upernet", "upernet", patch_size=16),
        "linear": Family("segmentation_linear", "plain", layers={"g": [48]}),
    },
    "panoptic": {"mask_decoder": Family("panoptic_mask_decoder", "mask_decoder", patch_size=16)},
    "depth": {
        "dpt": Family("depth_dpt", "dpt", layers={"g": [45]}),
        "linear": Family("depth_linear", "plain", layers={"g": [45]}),
    },
    "alignment": {
        "core": Family(
            "alignment_self", "student", weights=_CORES, taught="alignment_teacher", several="alignment_teachers"
        ),
        "spatial": Family("alignment_self", "student", taught="alignment_teacher", several="alignment_teachers"),
    },
}
DEFAULT_SIZE = "s"


@dataclass(frozen=True)
class Model:
    """A model by name.

    Attributes:
        name: Such as `mask_rcnn-s`.
        family: What it is.
        size: A key of `SIZES`, or `tiny`.
    """

    name: str
    family: Family
    size: str

    @property
    def encoder(self) -> str | None:
        """The released encoder of its shape; None where it is a tiny one."""
        return SIZES.get(self.size)

    @property
    def weights(self) -> str | None:
        """Name of the weights that the encoder begins with; None where it is drawn at random."""
        return self.family.weights.get(self.size)

    @property
    def is_student(self) -> bool:
        """Whether an encoder is trained by a teacher, and nothing else."""
        return self.family.taught is not None


def find_task(name: str) -> str:
    """The task of that name.

    Raises:
        OptionError: There is none.
    """
    if name not in TASKS:
        raise OptionError(f"there is no task {name!r}; {suggest(name, TASKS)}")
    return name


def require_patches(image_size: int, patch_size: int) -> None:
    """Refuse a side of pictures that is no whole number of patches.

    Args:
        image_size: In pixels.
        patch_size: Likewise.

    Raises:
        OptionError: It is none; names the nearest ones.
    """
    if image_size % patch_size:
        lower = image_size // patch_size * patch_size
        near = f"{lower} or {lower + patch_size}" if lower else f"{patch_size}"
        raise OptionError(f"image_size {image_size} is not a multiple of the patch size {patch_size}; take {near}")


def model_names(task: str) -> list[str]:
    """Names of all models of a task."""
    return [f"{family}-{size}" for family in TASKS[task] for size in (TINY, *SIZES)]


def find_model(task: str, name: str | None) -> Model:
    """The model of that name, or the task's default; a student is also called by the weights that it begins with.

    Raises:
        OptionError: No such task or model; names the nearest ones.
    """
    families = TASKS[find_task(task)]
    students = {
        weights: f"{each}-{size}"
        for each, family in families.items()
        for size, weights in family.weights.items()
        if family.taught
    }
    name = students.get(str(name), name) or f"{next(iter(families))}-{DEFAULT_SIZE}"
    family, _, size = name.rpartition("-")
    if family not in families or (size not in SIZES and size != TINY):
        forms = ", ".join(f"{each}-{{{','.join((TINY, *SIZES))}}}" for each in families)
        raise OptionError(
            f"{task} has no model {name!r}; {suggest(name, [*model_names(task), *students])}; there are {forms}"
        )
    return Model(name, families[family], size)
