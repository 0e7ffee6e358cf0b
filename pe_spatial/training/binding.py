"""What introduces a model and its data to each other."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner

from pe_spatial.common.errors import ConfigError, few
from pe_spatial.training.checkpoint_hook import unwrap


@HOOKS.register_module()
class BindDatasetHook(Hook):
    """Compares the model's classes with those of the data before anything is computed.

    Before training the model's `bind_dataset` is called with the metainfo of the data, before validation and testing
    `check_classes`; so are those of models inside it. Their complaints arrive as `ConfigError`. A model without classes
    has neither method.
    """

    def before_train(self, runner: Runner) -> None:
        """Bind the training data."""
        self._call(runner, "bind_dataset", runner.train_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Check the validation data."""
        self._call(runner, "check_classes", runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Check the test data."""
        self._call(runner, "check_classes", runner.test_dataloader)

    def _call(self, runner: Runner, method: str, loader: Any) -> None:
        try:
            for part in unwrap(runner.model).modules():
                if hasattr(part, method):
                    getattr(part, method)(loader.dataset.metainfo)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def count_classes(config: Config, loaders: tuple[str, ...]) -> None:
    """Give a model whose `num_classes` is null the number of classes of its data.

    Args:
        config: A loaded config; its `model.num_classes` is filled in.
        loaders: Names of dataloaders; the first that the config has is asked.

    Raises:
        ConfigError: The data does not know its classes.
    """
    model = config.get("model") or {}
    if "num_classes" not in model or model["num_classes"] is not None:
        return
    loader = next(config[name] for name in loaders if config.get(name))
    dataset = DATASETS.build(loader["dataset"])
    classes = dataset.metainfo.get("classes")
    if not classes:
        raise ConfigError(
            f"model.num_classes is null, but {type(dataset).__name__} does not know its classes; set model.num_classes"
        )
    config.model.num_classes = len(classes)


def check_class_count(num_classes: int, metainfo: Mapping[str, Any]) -> None:
    """Compare a model's number of classes with the `classes` of a dataset.

    Raises:
        ConfigError: They differ.
    """
    classes = metainfo["classes"]
    if len(classes) != num_classes:
        raise ConfigError(
            f"the model has num_classes={num_classes}, the dataset has {len(classes)} classes ({few(classes, 5)}); "
            f"set model.num_classes={len(classes)}"
        )
