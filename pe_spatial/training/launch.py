"""From a loaded config to a finished run: what the commands `train` and `eval` call."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.runner import Runner

from pe_spatial.common.errors import CheckpointError, ConfigError, UserError
from pe_spatial.common.trust import trusting
from pe_spatial.engines.header import is_exported
from pe_spatial.engines.models import find_file
from pe_spatial.training import checkpoint as files
from pe_spatial.training.binding import count_classes
from pe_spatial.training.checkpoint_content import check_resumable
from pe_spatial.training.config import import_packages
from pe_spatial.training.config_checks import require_dataset_types
from pe_spatial.training.engine_hook import EngineHook
from pe_spatial.training.frozen_encoders import find_sources_from_anywhere
from pe_spatial.training.planner.rescue import naming_exhaustion
from pe_spatial.training.progress import METRICS_FILE
from pe_spatial.training.run_config import differences
from pe_spatial.training.start import naming_mistakes, prepare, start_runner
from pe_spatial.training.trust import require_trusted

Resume = Literal["no", "yes", "if-any"]


def train(config: Config, resume: Resume = "no", hooks: Sequence[Hook] = (), trust: Sequence[str] = ()) -> Runner:
    """Train in `config.work_dir`, where nothing changes before model, data and checkpoint are known to fit.

    Args:
        config: A loaded config with `work_dir`.
        resume: Whether to continue from the newest sound checkpoint of the work folder. What the config changes in
            the run is named, and so are damaged checkpoints.
        hooks: Of the caller, beside those of the config.
        trust: Packages of your own that the config, and the checkpoint to resume from, may import; see SECURITY.md.

    Raises:
        CheckpointError: Nothing to resume from.
        ConfigError: The run ends before one of its schedulers begins; a dataset has no type; or the config asks for
            code that is not trusted.
        NotEnoughMemory: With the changes that need less.
        UserError: The folder holds another run, or another process trains there.
    """
    _check_schedule(config)
    require_dataset_types(config, "train_dataloader", "val_dataloader")
    find_sources_from_anywhere(config.get("model"))
    folder = Path(config.work_dir)
    with trusting(trust), prepare(config, folder) as changes:
        last, damaged = _find_start(folder, resume)
        with naming_mistakes():
            count_classes(config, ("train_dataloader",))
        notes = [] if last is None else _continue_from(last, config, changes)
        clear = partial(_clear, folder, last)
        with naming_exhaustion(config), start_runner(config, changes, folder, clear) as runner:
            for problem in damaged:
                runner.logger.warning(f"passed over: {problem}")
            for note in notes:
                runner.logger.warning(f"other than in the run so far: {note}")
            runner.logger.info("reading the data")
            for hook in hooks:
                runner.register_hook(hook)
            runner.train()
    return runner


def _find_start(folder: Path, resume: Resume) -> tuple[Path | None, list[str]]:
    """The checkpoint that a training of this folder begins with, if any, and what is wrong with newer ones.

    The main process decides for all.
    """
    decision: list[tuple[Path | None, list[str]]] = [files.find_resumable(folder) if is_main_process() else (None, [])]
    broadcast_object_list(decision)
    last, damaged = decision[0]
    if resume == "no" and (last is not None or damaged):
        name = f" ({last.name})" if last else ""
        raise UserError(f"{folder} contains a run{name}; continue it with --resume or set another --output")
    if last is None and (damaged or resume == "yes"):
        reasons = "".join(f"; {problem}" for problem in damaged)
        raise CheckpointError(f"--resume: {folder} has no complete checkpoint{reasons}; start without --resume")
    return last, damaged


def _continue_from(last: Path, config: Config, changes: dict[str, Any]) -> list[str]:
    """Add the entries with which mmengine's Runner resumes; returns what the config changes in the run.

    A config that asks for another seed gets that of the run.
    """
    notes, content = [], files.load_checkpoint(last)
    check_resumable(content, last)
    randomness, seed = config.get("randomness") or {}, content["meta"]["seed"]
    given = randomness.get("seed")
    if given is not None and given != seed:
        config.randomness.seed = seed
        notes = [f"randomness.seed: {given} is not taken but the run's {seed}, which the order of the data depends on"]
    # the order of the data depends on the seed, so it must be known before mmengine reads the checkpoint
    changes |= {"resume": True, "load_from": str(last), "randomness": {**randomness, "seed": seed}}
    return notes + differences(files.read_config(content, last), config)


def _clear(folder: Path, last: Path | None) -> None:
    """Remove what a run left that never reached a checkpoint."""
    for leftover in (METRICS_FILE, files.LAST_POINTER, files.BEST_POINTER) if last is None else ():
        (folder / leftover).unlink(missing_ok=True)


def evaluate(
    config: Config,
    checkpoint: str | Path | None = None,
    output: Path | None = None,
    trust: Sequence[str] = (),
    untrained: bool = False,
    engine: str | None = None,
) -> dict[str, Any]:
    """Score a checkpoint on the test data, or on the validation data where a config has no test data.

    Args:
        config: A loaded config with `work_dir`.
        checkpoint: A file; None takes the best of the work folder, or its last.
        output: Where results go; default: the folder `evaluation` below the work folder.
        trust: As in `train`.
        untrained: There is no checkpoint: the model is scored with the weights that the config names.
        engine: What runs the network, as of `Predictor`.

    Returns:
        The metrics.

    Raises:
        CheckpointError: No checkpoint.
        ConfigError: The config has neither test nor validation data, or these have no type; or it asks for code that is
            not trusted.
        UserError: Another process evaluates into the same folder.
    """
    folder = Path(config.work_dir)
    path = None if untrained else files.resolve_checkpoint(checkpoint or folder)
    running = "torch"
    if path is not None:
        path, running = find_file(path, engine)
        files.load_checkpoint(path)  # fails here, with a clear error, rather than after the data are loaded
    output = output or folder / "evaluation"
    entries = _test_entries(config)
    require_dataset_types(config, "test_dataloader" if config.get("test_dataloader") else "val_dataloader")
    with trusting(trust), prepare(config, output) as changes:
        in_graph = path is not None and is_exported(path)
        changes |= entries | {"resume": False, "load_from": None if path is None or in_graph else str(path)}
        with naming_mistakes():
            count_classes(config, ("test_dataloader", "val_dataloader"))
        with start_runner(config, changes, output) as runner:
            if path is not None:
                runner.register_hook(EngineHook(path, running))
            runner.logger.info(f"scoring {path or 'the model of the config'}; reading the data")
            return runner.test()


def needs_training(config: Config) -> bool:
    """Whether the model of a config is only known after a training.

    One that is not has `needs_training = False` in its class, and its config no `train_cfg`.

    Args:
        config: A loaded config. What its `custom_imports` name is imported.

    Raises:
        ConfigError: It asks for code that is not trusted.
    """
    origin = str(config.filename or "the config")
    require_trusted(config, lambda where: origin)
    import_packages(config, Path(origin))
    return config.get("train_cfg") is not None or getattr(MODELS.get(config.model.type), "needs_training", True)


def _test_entries(config: Config) -> dict[str, Any]:
    """The entries that make a Runner test, on validation data where there are no others, and do nothing else."""
    entries: dict[str, Any] = {"optim_wrapper": None, "param_scheduler": None}
    for part in ("dataloader", "evaluator", "cfg"):
        given = config.get(f"test_{part}")
        entries[f"test_{part}"] = config.get(f"val_{part}") if given is None else given
        entries[f"train_{part}"] = entries[f"val_{part}"] = None
        if entries[f"test_{part}"] is None:
            raise ConfigError(
                f"{config.filename or 'the config'} has neither test_{part} nor val_{part}; add one to evaluate"
            )
    return entries


def _check_schedule(config: Config) -> None:
    """A run that was shortened for a trial may end before a scheduler that lasts to its end begins."""
    length = (config.get("train_cfg") or {}).get("max_iters")
    schedulers = config.get("param_scheduler")
    for index, scheduler in enumerate(schedulers if isinstance(schedulers, list) else []):
        begin = 0 if scheduler.get("by_epoch", True) or "end" in scheduler else scheduler.get("begin", 0)
        if length is not None and 0 < length <= begin:
            raise ConfigError(
                f"param_scheduler.{index} starts at iteration {begin}, but train_cfg.max_iters is {length}; lower its "
                "begin and the end of the warm-up before it, or train at a constant rate with param_scheduler=null"
            )
