"""What a user asks for: the options of `pe-spatial train TASK`, and the arguments of `pe_spatial.train`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pe_spatial.common.errors import OptionError, require_choice, require_positive

TUNINGS = ("full", "frozen", "lora")
PRECISIONS = ("fp32", "bf16", "fp16")
LOGGERS = ("tensorboard", "csv", "wandb", "mlflow", "clearml")
EPOCHS = 20  # where neither epochs nor iterations are given


@dataclass(frozen=True)
class Request:
    """A training on data of one's own. None leaves an option as the recipe has it; docs/knobs.md explains each.

    Args:
        task: One of `pe_spatial.own.models.TASKS`.
        data: A folder, or the file that describes the dataset.
        model: `FAMILY-SIZE`, such as `mask_rcnn-s`; None takes the task's default.
        epochs: Passes over the training pictures; may be a fraction.
        iterations: Batches, instead of epochs; counted before accumulation.
        tune: What of the encoder is trained.
        encoder: In place of that of the size: a released one, or timm's name of one.
        weights: Of the encoder: a name, a file, the folder of a run, or `none`.
        teacher: Of an alignment: the name of a released encoder, a file, the folder of a run, or timm's name of an
            encoder with its file, `NAME=FILE`; or several of these. None takes what the student begins with, at 82 %
            of its depth.
        trial: Of an alignment: `matches=PHOTOS`, `tracking=DAVIS`, `neighbors=LABELS` or `linear=LABELS`, what the
            student is tried on at every validation.
        encoder_from: A run (or its checkpoint) whose encoder the head is trained on, frozen, with its preprocessing.
        image_size: Side of the pictures in pixels.
        batch_size: Pictures at once in a process.
        accumulate: Batches per optimizer step.
        lr: Learning rate, taken as it is; None scales that of the recipe with the batch.
        weight_decay: Of the optimizer.
        clip: Largest norm of a gradient; 0 does not clip.
        precision: Arithmetic of the forward pass; None takes bfloat16 on CUDA and float32 on a CPU.
        ema: Whether averaged weights are validated and kept.
        early_stopping: Validations without a new best after which the run ends.
        memory: What the training may take, such as `12gb` or `auto`: batch, precision, tuning and image size change
            until it fits.
        workers: Processes that load pictures.
        seed: Of the run, and of what is held out.
        logger: Where curves go, beside `metrics.jsonl`.
        format: Of the data, where it can be read in several ways.
        split: Names of the training and the validation part of the data, with a comma; or of the training part alone.
        output: Folder of the run; None makes one below `work_dirs`.
        overrides: `dotted.key=value`, over everything.

    Raises:
        OptionError: A value out of its range.
    """

    task: str
    data: str | Path
    model: str | None = None
    epochs: float | None = None
    iterations: int | None = None
    tune: str | None = None
    encoder: str | None = None
    weights: str | Path | None = None
    teacher: str | Path | Sequence[str | Path] | None = None
    trial: str | None = None
    encoder_from: str | Path | None = None
    image_size: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    clip: float | None = None
    precision: str | None = None
    ema: bool = False
    early_stopping: int | None = None
    memory: str | None = None
    workers: int | None = None
    seed: int = 0
    logger: str = "tensorboard"
    format: str | None = None
    split: str | None = None
    output: str | Path | None = None
    overrides: Sequence[str] = ()

    @property
    def teachers(self) -> tuple[str, ...]:
        """All that `teacher` names; none where it is None."""
        if self.teacher is None:
            return ()
        return (str(self.teacher),) if isinstance(self.teacher, str | Path) else tuple(map(str, self.teacher))

    def __post_init__(self) -> None:
        counts = ("iterations", "image_size", "batch_size", "accumulate", "early_stopping")
        given = {name: getattr(self, name) for name in counts}
        require_positive(**{name: value for name, value in given.items() if value is not None})
        for name, choices in (("tune", TUNINGS), ("precision", PRECISIONS), ("logger", LOGGERS)):
            if getattr(self, name) is not None:
                require_choice(name, getattr(self, name), choices)
        if self.epochs is not None and self.iterations is not None:
            raise OptionError("epochs and iterations are both given; give only one of them")
        if self.epochs is not None and not self.epochs > 0:
            raise OptionError(f"epochs {self.epochs:g} must be above 0")
        for name in ("weight_decay", "clip", "workers", "seed"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise OptionError(f"{name} {value} is below 0; give 0 or more")
        if self.lr is not None and not self.lr > 0:
            raise OptionError(f"lr {self.lr} must be above 0")
