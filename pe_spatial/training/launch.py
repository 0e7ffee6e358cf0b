"""From a loaded config to a finished run: what `tools/train_net.py` calls."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from pe_spatial.common.errors import CheckpointError, ConfigError, UserError
from pe_spatial.training.amp import prepare_evaluation
from pe_spatial.training.binding import count_classes
from pe_spatial.training.checkpoint import (
    BEST_POINTER,
    LAST_POINTER,
    find_best,
    find_last,
    load_checkpoint,
    read_safely,
)
from pe_spatial.training.config import drop_pretrained, dump_config
from pe_spatial.training.distributed import set_up
from pe_spatial.training.progress import METRICS_FILE


def train(config: Config, resume: Literal["no", "yes", "if-any"] = "no", hooks: Sequence[Hook] = ()) -> Runner:
    """Train in `config.work_dir`.

    Args:
        config: A loaded config with `work_dir`.
        resume: Whether to continue from the last complete checkpoint of the work folder.
        hooks: Of the caller, beside those of the config.

    Raises:
        CheckpointError: Nothing to resume from.
        ConfigError: The run ends before one of its schedulers begins.
        UserError: The folder holds another run.
    """
    _check_schedule(config)
    changes = set_up(config)
    folder = Path(config.work_dir)
    last = find_last(folder)
    if resume == "yes" and last is None:
        raise CheckpointError(f"--resume: {folder} has no complete checkpoint; start without --resume")
    if resume != "no" and last is not None:
        # the order of the data depends on the seed, so it must be known before mmengine reads the checkpoint
        seed = load_checkpoint(last).get("meta", {}).get("seed")
        randomness = {**(config.get("randomness") or {}), "seed": seed}
        changes |= {"resume": True, "load_from": str(last), "randomness": randomness}
    elif last is not None:
        raise UserError(f"{folder} holds a run ({last.name}); continue it with --resume or set another --work-dir")
    elif is_main_process():
        for leftover in (METRICS_FILE, LAST_POINTER, BEST_POINTER):  # of a run that never reached a checkpoint
            (folder / leftover).unlink(missing_ok=True)
    with naming_mistakes():
        count_classes(config, ("train_dataloader",))
        runner = build_runner(config, changes)
    for hook in hooks:
        runner.register_hook(hook)
    with naming_mistakes(runner):
        runner.train()
    return runner


def evaluate(config: Config, checkpoint: str | Path | None = None) -> dict[str, Any]:
    """Score a checkpoint on the test data, or on the validation data where a config has no test data.

    What it writes goes to the folder `evaluation` below the work folder.

    Args:
        config: A loaded config with `work_dir`.
        checkpoint: A file; None takes the best of the work folder, or its last.

    Returns:
        The metrics.

    Raises:
        CheckpointError: No checkpoint.
    """
    changes = set_up(config)
    folder = Path(config.work_dir)
    path = checkpoint or find_best(folder) or find_last(folder)
    if path is None:
        raise CheckpointError(f"--eval-only: {folder} has no checkpoint; name one with --checkpoint")
    load_checkpoint(path)  # fails here, with a clear error, rather than after the data are loaded
    for part in ("dataloader", "evaluator", "cfg"):
        given = config.get(f"test_{part}")
        changes[f"test_{part}"] = config.get(f"val_{part}") if given is None else given
        changes[f"train_{part}"] = changes[f"val_{part}"] = None
    changes |= {"optim_wrapper": None, "param_scheduler": None, "resume": False, "load_from": str(path)}
    with naming_mistakes():
        count_classes(config, ("test_dataloader", "val_dataloader"))
        runner = build_runner(config, {**changes, "work_dir": str(folder / "evaluation")})
    runner.logger.info(f"scoring {path}")
    with naming_mistakes(runner):
        return runner.test()


def _check_schedule(config: Config) -> None:
    """A run that was shortened for a trial may end before a scheduler that lasts to its end begins."""
    length = (config.get("train_cfg") or {}).get("max_iters")
    schedulers = config.get("param_scheduler")
    for index, scheduler in enumerate(schedulers if isinstance(schedulers, list) else []):
        begin = 0 if scheduler.get("by_epoch", True) or "end" in scheduler else scheduler.get("begin", 0)
        if length is not None and 0 < length <= begin:
            raise ConfigError(
                f"param_scheduler.{index} begins at iteration {begin}, but train_cfg.max_iters is {length}; lower its "
                "begin and the end of the warm-up before it, or train at a constant rate with param_scheduler=null"
            )


@contextmanager
def naming_mistakes(runner: Runner | None = None) -> Iterator[None]:
    """Until the runner's loop begins, a value or file that a part refuses is a mistake in the config, not a bug."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, TypeError) as error:
        has_begun = runner is not None and "loop_stage" in runner.message_hub.runtime_info
        if has_begun or (isinstance(error, TypeError) and "missing" not in str(error)):
            raise
        raise ConfigError(str(error)) from error


def build_runner(config: Config, changes: dict[str, Any]) -> Runner:
    """mmengine's Runner with a readable console.

    Args:
        config: What is asked for; the work folder and the checkpoints record it.
        changes: Top-level entries that hold for this process only.
    """
    _silence_harmless_warnings()
    prepare_evaluation(config)
    # mmengine shows environment, config and hooks at construction; they are in files of the work folder
    settings = {**config.to_dict(), **changes, "log_level": "WARNING"}
    read_safely(settings)
    if settings.get("resume") or settings.get("train_cfg") is None:
        drop_pretrained(settings["model"])
    runner = Runner.from_cfg(Config(settings, filename=config.filename, format_python_code=False))
    runner.cfg = Config(config.to_dict(), filename=config.filename, format_python_code=False)
    if is_main_process():  # over mmengine's own, which not every YAML reader takes
        dump_config(runner.cfg, Path(runner.work_dir, Path(config.filename or "config.yaml").name))
    _set_console(runner.logger, config.get("log_level", "INFO"))
    return runner


class _Console(logging.Formatter):
    """`12:30:01 message`; what is above INFO says so."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{self.formatTime(record, '%H:%M:%S')} {prefix}{record.getMessage()}"


_NOISE = ("Advance dataloader", "Loads checkpoint by", "Load checkpoint from", "resumed epoch:")


def _set_console(logger: logging.Logger, level: str) -> None:
    for handler in logger.handlers:
        is_file = isinstance(handler, logging.FileHandler)
        if is_file or is_main_process():
            handler.setLevel(level)
        if not is_file:
            handler.setFormatter(_Console())
            handler.addFilter(lambda record: not record.getMessage().startswith(_NOISE))


def _silence_harmless_warnings() -> None:
    for message in (
        ".*Fail to import ..MultiScaleDeformableAttention",
        ".*lr_scheduler.step.*before.*optimizer.step",
        ".*pin_memory. argument is set as true but no accelerator",
        ".*torch.jit.script",
    ):
        warnings.filterwarnings("ignore", message)
