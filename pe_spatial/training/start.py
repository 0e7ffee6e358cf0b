"""A run's folder changes only when its start is certain.

mmengine's Runner makes a folder, a log and a copy of its config as soon as it is built. It is built in a temporary
folder here; when model, data and checkpoint have been built, loaded and checked, `OpenFolderHook` moves it to its own.
"""

import logging
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from pe_spatial.common.console import warning_hook
from pe_spatial.common.errors import ConfigError, UserError
from pe_spatial.common.files import atomic_path
from pe_spatial.common.locks import lock_folder
from pe_spatial.common.trees import sections
from pe_spatial.training.checkpoint import read_safely
from pe_spatial.training.config import drop_pretrained, dump_config
from pe_spatial.training.distributed import set_up
from pe_spatial.training.encoder_hook import FrozenEncoderHook
from pe_spatial.training.environment import run_environment, set_console
from pe_spatial.training.progress import ProgressHook
from pe_spatial.training.run_config import RUN_CONFIG
from pe_spatial.training.trust import require_trusted


class OpenFolderHook(Hook):
    """Moves a run from its temporary folder to its own, right before the first iteration or the first test.

    Args:
        folder: Of the run.
        clear: Called before anything is written, on the main process.
    """

    priority = 55  # after the hooks that check (up to NORMAL), before those that write (from BELOW_NORMAL)

    def __init__(self, folder: Path, clear: Callable[[], None]) -> None:
        self.folder = folder
        self.clear = clear

    def before_train(self, runner: Runner) -> None:
        """Move."""
        if is_main_process():
            self.clear()
            self.folder.mkdir(parents=True, exist_ok=True)
            dump_config(runner.cfg, self.folder / RUN_CONFIG)
            _copy(Path(runner.work_dir), self.folder)
        log_dir = self.folder.absolute() / Path(runner.log_dir).name
        log_dir.mkdir(parents=True, exist_ok=True)  # an earlier run of this second may have the file
        for handler in _log_files(runner):
            handler.close()
            handler.baseFilename = str(log_dir / Path(handler.baseFilename).name)
            handler.stream = handler._open()
        runner._work_dir, runner._log_dir = str(self.folder.absolute()), str(log_dir)
        metainfo = runner.visualizer.dataset_meta
        settings = runner.cfg.get("visualizer")
        runner.visualizer = runner.build_visualizer(None if settings is None else settings.to_dict())
        runner.visualizer.dataset_meta = metainfo
        runner.visualizer.add_config(runner.cfg)

    before_test = before_train


class QuietLoadHook(Hook):
    """Keeps mmengine's line about the checkpoint that it loads from the console: it is printed and not logged.

    Args:
        stack: Is closed when the checkpoint is loaded, or by its owner.
    """

    priority = "LOWEST"

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack

    def before_run(self, runner: Runner) -> None:
        """Hide what is printed, from right before the checkpoint is loaded."""
        if runner._load_from is not None:
            self.stack.enter_context(redirect_stdout(StringIO()))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Show it again."""
        self.stack.close()


@contextmanager
def start_runner(
    config: Config, changes: dict[str, Any], folder: Path, clear: Callable[[], None] = lambda: None
) -> Iterator[Runner]:
    """A Runner that leaves its folder alone until it is certain that it starts.

    Args:
        config: What is asked for; the folder and the checkpoints record it.
        changes: Top-level entries that hold for this process only.
        folder: Where results go.
        clear: Called before anything is written, on the main process.
    """
    with TemporaryDirectory(prefix="pe_spatial_") as temporary, ExitStack() as quiet:
        silent = {"type": "Visualizer", "name": f"start in {temporary}"}  # its own makes files when it is built
        with naming_mistakes():
            runner = build_runner(config, {**changes, "work_dir": temporary, "visualizer": silent}, folder)
        for copy_of_config in (path for path in Path(temporary).iterdir() if path.is_file()):
            copy_of_config.unlink()  # mmengine's, with the changes of this process
        runner.register_hook(OpenFolderHook(folder, clear))
        runner.register_hook(QuietLoadHook(quiet))
        warnings.showwarning = warning_hook(runner.logger.warning)  # until `run_environment` ends
        try:
            with naming_mistakes(runner):
                yield runner
        finally:
            for hook in runner.hooks:
                if isinstance(hook, ProgressHook):
                    hook.end()
            for handler in _log_files(runner):
                if Path(handler.baseFilename).is_relative_to(temporary):
                    runner.logger.removeHandler(handler)
                    handler.close()


def _copy(folder: Path, target: Path) -> None:
    """Copy all files below a folder; what has the name of one, be it a link to elsewhere, is replaced."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        copied = target / path.relative_to(folder)
        copied.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(copied) as temporary:
            shutil.copyfile(path, temporary)


def _log_files(runner: Runner) -> list[logging.FileHandler]:
    return [handler for handler in runner.logger.handlers if isinstance(handler, logging.FileHandler)]


def place_results(settings: dict[str, Any], folder: Path) -> None:
    """Put the `results_file` of metrics below a folder, in place; one that the command line names stays as it is."""
    for part in sections(settings):
        if isinstance(part.get("results_file"), str):
            part["results_file"] = str(folder.absolute() / part["results_file"])


def build_runner(config: Config, changes: dict[str, Any], folder: Path | None = None) -> Runner:
    """Mmengine's Runner with a readable console.

    Args:
        config: What is asked for; the checkpoints record it.
        changes: Top-level entries that hold for this process only.
        folder: Where results go; default: the `work_dir` of the config.
    """
    # mmengine shows environment, config and hooks at construction; they are in files of the work folder
    settings = {**config.to_dict(), **changes, "log_level": "WARNING"}
    read_safely(settings)
    place_results(settings, folder or Path(settings["work_dir"]))
    if settings.get("resume") or (settings.get("train_cfg") is None and settings.get("load_from")):
        drop_pretrained(settings["model"])
    runner = Runner.from_cfg(Config(settings, filename=config.filename, format_python_code=False))
    runner.register_hook(FrozenEncoderHook())
    runner.cfg = Config(config.to_dict(), filename=config.filename, format_python_code=False)
    set_console(runner.logger, config.get("log_level", "INFO"))
    return runner


@contextmanager
def prepare(config: Config, folder: Path) -> Iterator[dict[str, Any]]:
    """Set up the process and keep others from starting in a folder; yields the entries of `distributed.set_up`.

    The lock lies beside the folder: a refused start does not touch it.

    Raises:
        ConfigError: The config asks for code that is not trusted.
        UserError: Another process writes there.
    """
    require_trusted(config, lambda where: str(config.filename or "the config"))
    with run_environment(config), ExitStack() as stack:
        changes = set_up(config)
        if is_main_process():
            stack.enter_context(lock_folder(folder.parent, folder.name, f"writes to {folder}"))
        yield changes


@contextmanager
def naming_mistakes(runner: Runner | None = None) -> Iterator[None]:
    """Until the runner's loop begins, a value or file that a part refuses is a mistake in the config, not a bug."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        has_begun = runner is not None and "loop_stage" in runner.message_hub.runtime_info
        if has_begun or not (isinstance(error, OSError | ValueError) or _is_refusal(error)):
            raise
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise ConfigError(" ".join(message.split()) or type(error).__name__) from error


def _is_refusal(error: Exception) -> bool:
    """Whether a third party raised it, or a call that lacks an argument: it refuses what the config has for it."""
    last = list(traceback.walk_tb(error.__traceback__))[-1][0]
    return not last.f_globals.get("__name__", "").startswith("pe_spatial") or "missing" in str(error)
