"""Where curves go beside `metrics.jsonl`: a CSV file of our own, and what the services of mmengine's backends need."""

import csv
import os
from collections.abc import Mapping, Sequence
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.registry import VISBACKENDS
from mmengine.visualization import BaseVisBackend

from pe_spatial.common.errors import MissingPackage, OptionError
from pe_spatial.common.trust import is_there

CSV_FILE = "metrics.csv"
_COLUMNS = ("iter", "name", "value")


@VISBACKENDS.register_module()
class CsvVisBackend(BaseVisBackend):
    """Scalars as rows `iter,name,value` of `metrics.csv`, which spreadsheets and pandas read; pictures are left out.

    The file lies where TensorBoard's events would, in the folder of the log: every start of a run has its own.

    Args:
        save_dir: Folder of the file.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir)
        self.path = Path(save_dir) / CSV_FILE

    @property
    def experiment(self) -> "CsvVisBackend":
        """The backend itself."""
        return self

    def _init_env(self) -> None:
        pass

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Write one row."""
        self.add_scalars({name: value}, step)

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write a row for each number."""
        is_new = not self.path.is_file()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(_COLUMNS)
            writer.writerows((step, name, f"{float(value):.6g}") for name, value in scalar_dict.items())


# --- services ---------------------------------------------------------------------------------------------------------
class Service(NamedTuple):
    """What a logger needs.

    Attributes:
        package: That writes; ours for what needs none.
        backend: Of mmengine.
        variables: One of them has the credentials, or says that none are needed; empty where none ever are.
        files: Relative to the home folder, one of which may have them too.
        remedy: How to get them.
    """

    package: str
    backend: str
    variables: Sequence[str] = ()
    files: Sequence[str] = ()
    remedy: str = ""


SERVICES: dict[str, Service] = {
    "tensorboard": Service("tensorboard", "TensorboardVisBackend"),
    "csv": Service("pe_spatial", "CsvVisBackend"),
    "wandb": Service(
        "wandb",
        "WandbVisBackend",
        ("WANDB_API_KEY", "WANDB_MODE"),
        (),
        "run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline to keep the curves here",
    ),
    "mlflow": Service("mlflow", "MLflowVisBackend"),
    "clearml": Service(
        "clearml",
        "ClearMLVisBackend",
        ("CLEARML_API_ACCESS_KEY", "CLEARML_OFFLINE_MODE"),
        ("clearml.conf",),
        "run `clearml-init`, or set CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY",
    ),
}


def require_logger(name: str) -> Service:
    """The service of a logger, if it can be used here.

    Raises:
        MissingPackage: Its package is not installed.
        OptionError: It would ask for credentials, and there are none.
    """
    service = SERVICES[name]
    if not is_there(service.package):
        raise MissingPackage(
            f"logger {name} needs the package {service.package}, which is not installed; pip install {service.package}"
        )
    known = any(os.environ.get(variable) for variable in service.variables)
    known |= any((Path.home() / file).is_file() for file in service.files)
    if service.variables and not known and not (name == "wandb" and _has_netrc("api.wandb.ai")):
        raise OptionError(f"logger {name} has no credentials here; {service.remedy}")
    return service


def _has_netrc(host: str) -> bool:
    try:
        return netrc().authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False
