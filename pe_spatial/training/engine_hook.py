"""A run that is scored with another engine than torch."""

from pathlib import Path

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from pe_spatial.engines.header import is_exported
from pe_spatial.engines.models import equip, require_same_network


class EngineHook(Hook):
    """Lets an engine run the network of the model before the first test.

    Args:
        path: The checkpoint, or the exported file, that is scored.
        engine: One that runs it.
    """

    def __init__(self, path: Path, engine: str) -> None:
        self.path, self.engine = path, engine

    def before_test(self, runner: Runner) -> None:
        """Equip the model."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if is_exported(self.path):
            require_same_network(self.path, runner.cfg.model.to_dict())
        equip(model, self.path, self.engine, model.data_preprocessor.device)
