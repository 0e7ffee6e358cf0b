"""A quick check of the data before a training begins."""

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from pe_spatial.common.errors import ConfigError, OptionError
from pe_spatial.doctor.examination import ExaminationOptions, examine_dataset, parts


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Examines samples of the training and validation data, chosen at random, before the first iteration.

    The main process examines. Errors stop the training on all processes; warnings go to the log.
    `tools/check_dataset.py` examines everything, and compares the datasets with each other.

    Args:
        seconds: Time for each of the datasets.
    """

    priority = "VERY_HIGH"

    def __init__(self, seconds: float = 0.5) -> None:
        if not seconds > 0:
            raise OptionError(f"seconds {seconds} must be above 0; leave the hook out to look at nothing")
        self.seconds = seconds

    def before_train(self, runner: Runner) -> None:
        """Examine the datasets of the run.

        Raises:
            ConfigError: Lists the errors that were found.
        """
        problems = [self._look(runner) if is_main_process() else ""]
        broadcast_object_list(problems)
        if problems[0]:
            raise ConfigError(
                f"{problems[0]}\n(tools/check_dataset.py examines all of the data; --no-data-check trains regardless)"
            )

    def _look(self, runner: Runner) -> str:
        loaders = {"train": runner.train_dataloader}
        if runner.val_loop is not None:
            loaders["val"] = runner.val_dataloader
        problems: list[str] = []
        options = ExaminationOptions(seconds=self.seconds, thorough=False)
        for split, loader in loaders.items():
            for dataset in parts(loader.dataset) if isinstance(loader, DataLoader) else ():
                findings = examine_dataset(split, dataset, options).findings
                for line in findings.lines(("warning",)):
                    runner.logger.warning(f"{split}: {line}")
                problems += [line.replace("error: ", f"{split} data: ", 1) for line in findings.lines(("error",))]
        return "\n".join(problems)
