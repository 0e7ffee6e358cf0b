"""The config that a run was started with: kept in its folder and in its checkpoints, so that a run needs nothing else.

`config.yaml` in the folder of a run is complete: bases, overrides and `--no-data-check` are worked in. `--resume RUN`
reads it. A checkpoint holds the same config as it was at that iteration; evaluation and prediction read that.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pe_spatial.common import trees
from pe_spatial.common.errors import CheckpointError
from pe_spatial.common.safe_yaml import parse
from pe_spatial.training.checkpoint import find_last, load_checkpoint, read_config
from pe_spatial.training.config import config_text, load_config, override_config

RUN_CONFIG = "config.yaml"
_OF_THE_START = ("work_dir", "experiment_name", "load_from", "resume")  # may differ whenever a run goes on


def config_of_run(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of the run in a folder, with `work_dir` set to where the folder is now.

    Args:
        folder: Of a training run.
        overrides: As in `load_config`.

    Raises:
        CheckpointError: The folder holds no run.
        ConfigError: An override that does not fit, or an option that this version does not know.
    """
    if (folder / RUN_CONFIG).is_file():
        config = load_config(folder / RUN_CONFIG, overrides)
    else:
        last = find_last(folder)  # of version 0.1
        if last is None:
            raise CheckpointError(
                f"{folder}: has neither {RUN_CONFIG} nor a complete checkpoint; give the folder of a training run"
            )
        config = config_of_checkpoint(last, overrides)
    config.work_dir = str(folder)
    return config


def config_of_checkpoint(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The config that a checkpoint was trained with.

    Args:
        path: A checkpoint file.
        overrides: As in `load_config`.

    Raises:
        CheckpointError: Not one of our checkpoints.
        ConfigError: An override that does not fit.
    """
    copy = path.parent / RUN_CONFIG
    filename = str(copy) if copy.is_file() else None
    config = Config(read_config(load_checkpoint(path), path), filename=filename, format_python_code=False)
    override_config(config, overrides, path)
    return config


def differences(before: dict[str, Any], config: Config) -> list[str]:
    """What a config changes in a run: `key: the run's value → the new value` for each entry.

    Args:
        before: The config of the run so far, as its last checkpoint holds it.
        config: Of the run from now on.
    """
    return list(trees.differences(_lasting(before), lasting_settings(config)))


def lasting_settings(config: Config) -> dict[str, Any]:
    """The plain entries of a config that say what a run does, without those of one start of it."""
    return _lasting(parse(config_text(config)))


def _lasting(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in _OF_THE_START}
