"""From a request to the config of its run: a recipe of `configs/own`, the encoder, the options, the data, the length.

The config that comes out is complete and is all that the run is started from: printed and given to `--config`, it
gives the same run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope

from pe_spatial.common.devices import choose_device
from pe_spatial.common.errors import OptionError
from pe_spatial.common.parts import encoder_key
from pe_spatial.common.trees import joined
from pe_spatial.doctor.guards import overheard
from pe_spatial.own.costs import cost_line
from pe_spatial.own.data import Data, Section, find_data
from pe_spatial.own.encoder_from import borrow
from pe_spatial.own.facts import data_settings, split_lines
from pe_spatial.own.knobs import knob_settings
from pe_spatial.own.length import Length, find_length, length_settings, momentum, scaled_rate
from pe_spatial.own.memory import count_processes, fit_request
from pe_spatial.own.models import TINY_ENCODER, Model, find_model
from pe_spatial.own.other_encoder import other_encoder
from pe_spatial.own.photographs import find_photographs
from pe_spatial.own.request import Request
from pe_spatial.own.students import student_settings
from pe_spatial.own.teachers import teacher_lines, teaches_alone
from pe_spatial.training.config import compose_config
from pe_spatial.training.config_files import find_config, read_config_file
from pe_spatial.training.loggers import require_logger
from pe_spatial.training.planner.variation import WRAPPERS

_COUNTED = ("LoadImage", "LoadSegmentation", "LoadPanoptic")  # what the classes of label maps are counted from


@dataclass(frozen=True)
class Composition:
    """What a request comes to.

    Attributes:
        config: Complete, with `work_dir`.
        data: What was recognized, for the first screen.
        decisions: What was decided, for the first screen.
        trust: Packages that the request asks for, such as that of a logger.
    """

    config: Config
    data: tuple[str, ...]
    decisions: tuple[str, ...]
    trust: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """The first screen."""
        return (*self.data, *self.decisions)


def compose(request: Request) -> Composition:
    """Recognize the data and compose the config; with a `memory`, one that fits into it.

    Raises:
        UserError: What is asked for does not fit together; names value, rule and remedy.
        FileNotFoundError: The data does not exist.
    """
    composition = _compose(request)
    if request.memory is None:
        return composition
    fitting, line, row = fit_request(request, composition.config)
    fitted = _compose(fitting)
    return replace(fitted, decisions=(*fitted.decisions, line, cost_line(fitted.config, row)))


def _compose(request: Request) -> Composition:
    request, borrowed = borrow(request)
    model = find_model(request.task, request.model)
    parts = _parts(request, model)
    recipe, _ = read_config_file(find_config(parts[0]))
    key = encoder_key(recipe["model"])
    encoder, patch_size, encoder_lines = _encoder(request, model, parts, key)
    knobs = knob_settings(request, model, key, patch_size, choose_device().type == "cuda")
    if model.is_student:
        data = find_photographs(request, recipe)
        knobs = joined(knobs, student_settings(request, model, knobs["optim_wrapper"]["type"] == WRAPPERS["bf16"]))
    else:
        data = find_data(request)
    settings = joined(
        encoder,
        knobs,
        borrowed.settings,
        {"train_dataloader": {"dataset": data.train}, "val_dataloader": {"dataset": data.val}},
    )
    trust = (require_logger(request.logger).package,)
    drafted = compose_config(parts, settings, request.overrides, trust)
    train, val = _built(drafted)
    found, lines = data_settings(request.task, model, train, val)
    settings = joined(settings, found, borrowed.pipeline(drafted))
    settings, more = _sized(request, recipe, settings, drafted, len(train))
    config = compose_config(parts, settings, request.overrides, trust)
    config.work_dir = str(request.output or _default_folder(request, model, data))
    tune = f", {request.tune}" if request.tune else ""
    told = (*data.lines, *split_lines(train, val, not model.is_student), *lines, *teacher_lines(config.model))
    decisions = (f"recipe: {parts[0]}, model {model.name}{tune}", *encoder_lines, *borrowed.lines, *more)
    return Composition(config, told, decisions, trust)


def _parts(request: Request, model: Model) -> list[str]:
    """Names of the config files, each over those before it."""
    recipe = model.family.recipe
    if request.teachers and model.family.taught and model.family.several:
        recipe = model.family.taught if teaches_alone(request.teachers) else model.family.several
    parts = [f"own/{recipe}.yaml"]
    if model.encoder is None:
        parts.append(f"_base_/tiny/{model.family.tiny}.yaml")
    elif model.family.windowed:
        parts.append(f"_base_/backbones/windowed_{model.size}.yaml")
    return parts


def _encoder(
    request: Request, model: Model, parts: Sequence[str], key: str
) -> tuple[Section, int | None, tuple[str, ...]]:
    """The settings of the encoder, of what images must be multiples where it matters, and what to tell of it."""
    if request.encoder is None:
        windows = 16 if model.family.windowed else None  # patches of all encoders in windows
        return _encoder_of_size(model, key), windows, ()
    if model.is_student:
        raise OptionError(f"encoder {request.encoder}: alignment trains a Perception Encoder; give its size with model")
    return other_encoder(request, parts)


def _encoder_of_size(model: Model, key: str) -> Section:
    """The encoder of a model, but of one in windows, which has a config file."""
    if model.encoder is None:
        return {"model": {key: {"variant": {"_delete_": True, **TINY_ENCODER}, "weights": None}}}
    if model.family.windowed:
        return {}
    from pe_spatial.backbones import VARIANTS

    backbone: Section = {"variant": model.encoder, "weights": model.weights}
    patch_size = model.family.patch_size or VARIANTS[model.encoder].patch_size
    if patch_size != VARIANTS[model.encoder].patch_size:
        backbone["patch_size"] = patch_size
    if model.size in model.family.layers:
        backbone["layers"] = model.family.layers[model.size]
    return {"model": {key: backbone, "data_preprocessor": {"size_divisor": patch_size}}}


def _built(config: Config) -> tuple[BaseDataset, BaseDataset]:
    """The datasets of a config, which load no more than label maps, without their lines in the log.

    The run shows these lines.
    """
    found = []
    with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")), overheard(lambda _: None):
        for loader in (config.train_dataloader, config.val_dataloader):
            section = loader.dataset.to_dict()
            section["pipeline"] = [step for step in section["pipeline"] if step["type"] in _COUNTED]
            section.pop("depth_range", None)  # which follows from the data
            found.append(DATASETS.build(section))
    return found[0], found[1]


def _sized(
    request: Request, recipe: Section, settings: Section, drafted: Config, images: int
) -> tuple[Section, list[str]]:
    """The settings with all that depends on the number of pictures, and what to tell of it."""
    batch, lines = drafted.train_dataloader.batch_size, []
    if batch > images:
        if request.batch_size is not None:
            raise OptionError(f"a batch of {batch} pictures, but the training part has {images}; lower the batch")
        lines.append(f"batch: {images} instead of {batch}, because the training part has no more pictures")
        batch = images
        settings = joined(settings, {"train_dataloader": {"batch_size": batch}})
    processes = count_processes()
    length = find_length(request, images, batch, processes)
    wrapper = drafted.optim_wrapper
    rate, line = _rate(request, wrapper, batch * processes * wrapper.get("accumulative_counts", 1), recipe)
    timed = length_settings(length, recipe["train_cfg"]["max_iters"], drafted.get("param_scheduler"))
    hooks = _hook_settings(request, drafted, length)
    sized = joined(settings, timed, {"optim_wrapper": {"optimizer": {"lr": rate}}, "default_hooks": hooks})
    lines += [
        line,
        f"length: {length.iterations} iterations, {length.epochs:.1f} epochs of {length.per_epoch}; validated and "
        f"saved every {length.interval}",
    ]
    return sized, lines


def _rate(request: Request, wrapper: Mapping[str, Any], batch: int, recipe: Section) -> tuple[float, str]:
    """The learning rate, and how it came about."""
    rate, reference = wrapper["optimizer"]["lr"], recipe["_reference_batch"]
    is_given = request.lr is not None or any(
        override.startswith("optim_wrapper.optimizer.lr=") for override in request.overrides
    )
    if is_given:
        return rate, f"learning rate: {rate:g}, as given"
    scaled = scaled_rate(rate, batch, reference)
    return scaled, f"learning rate: {scaled:g} = {rate:g} of a batch of {reference} x sqrt({batch} / {reference})"


def _hook_settings(request: Request, drafted: Config, length: Length) -> Section:
    """Hooks that options switch on; they stand in `default_hooks`, which a config of the user's own keeps."""
    hooks: Section = {}
    if request.ema:
        hooks["ema"] = {"type": "EMAHook", "momentum": momentum(length.iterations), "update_buffers": True}
    if request.early_stopping is not None:
        best = drafted.default_hooks.checkpoint
        hooks["early_stopping"] = {
            "type": "EarlyStoppingHook",
            "monitor": best.best,
            "rule": best.get("rule", "greater"),
            "min_delta": 0.0,
            "patience": request.early_stopping,
            "strict": True,
        }
    return hooks


def _default_folder(request: Request, model: Model, data: Data) -> Path:
    path = Path(request.data).expanduser().absolute()
    name = model.name if request.encoder is None else f"{model.name}_{request.encoder.replace(':', '-')}"
    return Path("work_dirs") / f"{request.task}_{name}_{path.stem if path.is_file() else path.name}"
