"""The models of `pe-spatial predict`: one alone, or several on one encoder, each with a folder of its own; or words."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pe_spatial.backbones.text import open_core
from pe_spatial.commands import predict_words
from pe_spatial.commands.options import resolve_precision, slices
from pe_spatial.commands.task_options import options_of_task, refuse_options_of_others
from pe_spatial.common.console import print_note
from pe_spatial.common.errors import OptionError
from pe_spatial.common.records import Part, Records, fingerprint
from pe_spatial.inference.naming import InstanceNamer
from pe_spatial.inference.predictor import Predictor, Recipe
from pe_spatial.inference.shared import SharedPredictor, overrides_by_name
from pe_spatial.inference.shared_writer import SharedWriter
from pe_spatial.inference.tasks import Task, reading, resizing, task_of, tiling
from pe_spatial.training.checkpoint import load_checkpoint, read_config, resolve_checkpoint

if TYPE_CHECKING:
    from pe_spatial.inference.stream import Streamed
    from pe_spatial.inference.write_ahead import Writes

_RULES = ("value_range", "bands")  # options that say how pictures of many bits or bands are shown


@dataclass(frozen=True)
class Model:
    """A checkpoint, or a recipe without one, and the folder of its results.

    Attributes:
        name: None where it is the only one.
        source: The file, or the recipe.
        task: Of the model.
        options: Of the command, as its task takes them; the overrides are complete.
        records: Of its folder.
    """

    name: str | None
    source: Path | Recipe
    task: Task
    options: argparse.Namespace
    records: Records

    def predictor(self) -> Predictor:
        """The model, loaded; words name its objects where there are both."""
        predictor = self.task.predictor(self.source, self.options)
        if self.options.words is not None and self.options.encoder is not None and not isinstance(self.source, Recipe):
            core = open_core(self.options.encoder, self.options.weights, self.options.device)
            predictor.name_instances(InstanceNamer(core, predict_words.read_words(self.options)[0]))
        return predictor

    @property
    def result(self) -> Path:
        """The list of its results."""
        return self.records.folder / self.task.writer.result


def find_models(options: argparse.Namespace, part: Part) -> list[Model]:
    """The models of the command; none is loaded yet.

    Args:
        options: Of the command.
        part: Of the files, that this process does.

    Raises:
        UserError: A checkpoint that is none, options that do not fit, or a folder with results of another run.
    """
    if not options.checkpoint:
        recipe, identity = predict_words.recipe(options)
        task = task_of(recipe.config, Path(recipe.name))
        refuse_options_of_others(options, {Path(recipe.name): task})
        return [_model(None, recipe, identity, recipe.config, task, options.overrides, options, part)]
    paths = {name: resolve_checkpoint(path) for name, path in options.checkpoint}
    configs = {name: read_config(load_checkpoint(path), path) for name, path in paths.items()}
    tasks = {name: task_of(config, paths[name]) for name, config in configs.items()}
    refuse_options_of_others(options, {paths[name]: task for name, task in tasks.items()})
    names = [name for name in paths if name is not None]
    overrides: dict[str | None, list[str]] = {None: options.overrides}
    if names:
        overrides.update(overrides_by_name(options.overrides, names).items())
    named: Mapping[str, Any] = {}
    if options.words is not None and options.encoder is None:
        ((name, path),) = paths.items()
        overrides[name] = [*options.overrides, *predict_words.overrides(options, configs[name], path)]
    elif options.words is not None:
        ((name, path),) = paths.items()
        if tasks[name].name != "detection":
            raise OptionError(
                f"{path} holds a model of {tasks[name].name}: --words works with a detector that has masks; for the "
                "class of every pixel remove --checkpoint"
            )
        named = predict_words.read_words(options)[1]
    identities = {name: {"model": path.stem, "weights": fingerprint(path), **named} for name, path in paths.items()}
    return [
        _model(name, path, identities[name], configs[name], tasks[name], overrides[name], options, part)
        for name, path in paths.items()
    ]


def _model(
    name: str | None,
    source: Path | Recipe,
    identity: Mapping[str, Any],
    config: Mapping[str, Any],
    task: Task,
    overrides: Sequence[str],
    options: argparse.Namespace,
    part: Part,
) -> Model:
    output = options.output if name is None else options.output / name
    own = options_of_task(options, task, output, overrides)
    settings = {key: getattr(own, key) for key in (*task.settings, "image_size", "overrides")}
    settings |= {key: rule for key in _RULES if (rule := getattr(own, key)) is not None}
    settings |= {} if own.engine in (None, "torch") else {"engine": own.engine}
    resolve_precision(own, source if isinstance(source, Path) else source.name)
    settings |= {} if own.precision is None else {"precision": own.precision}
    run = {"task": task.name, **identity, **settings}
    records = Records(output, run, part)
    sliced = slices(own, config, own.image_size is not None)
    resized = [] if own.image_size is None else resizing(config, own.image_size)
    tiled = [] if own.tiles is None else tiling(config, int(own.tiles), own.image_size is not None)
    own.overrides = [*resized, *sliced, *tiled, *overrides, *reading(config, own.value_range, own.bands)]
    return Model(name, source, task, own, records)


def open_models(
    models: Sequence[Model], stems: Mapping[str, str], must_share: str
) -> tuple[Streamed, Writes, list[Path]]:
    """Load the models and claim their folders.

    Args:
        models: Of the command.
        stems: Names of the files to write, by names of the input.
        must_share: Of the command.

    Returns:
        What predicts, what writes, and the lists that are written.

    Raises:
        UserError: A checkpoint that does not fit its config, or models that do not share what they must.
    """
    results = [model.result for model in models]
    if models[0].name is None:
        model = models[0]
        predictor = model.predictor()
        return predictor, model.task.writer(model.records, stems, predictor, model.options), results
    shared = SharedPredictor.of({str(model.name): model.predictor() for model in models}, must_share)
    for line in shared.summary:
        print_note(line)
    writers = {
        name: model.task.writer(model.records, stems, shared.predictors[name], model.options)
        for name, model in zip(shared.predictors, models, strict=True)
    }
    return shared, SharedWriter(writers), results
