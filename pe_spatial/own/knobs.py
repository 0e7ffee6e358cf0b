"""The named options as sections of a config."""

from typing import Any

from pe_spatial.common.devices import available_cores
from pe_spatial.common.errors import OptionError
from pe_spatial.own.encoders import weights_of
from pe_spatial.own.models import Model, require_patches
from pe_spatial.own.request import Request
from pe_spatial.training.loggers import require_logger
from pe_spatial.training.planner.variation import WRAPPERS

_WORKERS = 4
_RANK = 8  # of adapters


def knob_settings(request: Request, model: Model, key: str, patch_size: int | None, use_cuda: bool) -> dict[str, Any]:
    """What the options of a request say, apart from those that depend on the data.

    Args:
        request: What is asked for.
        model: That is trained.
        key: Where its settings have the encoder.
        patch_size: Of what the side of the pictures must be a multiple; None takes any.
        use_cuda: Whether a CUDA device trains.

    Raises:
        OptionError: An option that this machine or model has not.
        MissingPackage: The logger's package is not installed.
    """
    precision = request.precision or ("bf16" if use_cuda else "fp32")
    if precision == "fp16" and not use_cuda:
        raise OptionError(
            "precision fp16 needs a CUDA device, and torch finds none here; use bf16, which also runs on a CPU"
        )
    optimizer = {"lr": request.lr, "weight_decay": request.weight_decay}
    wrapper: dict[str, Any] = {
        "type": WRAPPERS[precision],
        "optimizer": {name: value for name, value in optimizer.items() if value is not None},
    }
    if request.accumulate is not None:
        wrapper["accumulative_counts"] = request.accumulate
    settings: dict[str, Any] = {
        "model": {key: _encoder(request, model)},
        "optim_wrapper": wrapper,
        "randomness": {"seed": request.seed},
        "visualizer": {"vis_backends": [{"type": require_logger(request.logger).backend}]},
    }
    if request.clip is not None:
        wrapper["clip_grad"] = {"_delete_": True, "max_norm": request.clip} if request.clip else None
    if request.image_size is not None:
        if patch_size is not None:
            require_patches(request.image_size, patch_size)
        settings["_image_size"] = request.image_size
    workers = min(_WORKERS, available_cores()) if request.workers is None else request.workers
    settings["train_dataloader"] = {"num_workers": workers}
    settings["val_dataloader"] = {"num_workers": workers}
    if request.batch_size is not None:
        settings["train_dataloader"]["batch_size"] = request.batch_size
    return settings


def _encoder(request: Request, model: Model) -> dict[str, Any]:
    """Settings of the encoder that are options."""
    settings: dict[str, Any] = {}
    if request.weights is not None:
        settings["weights"] = None if request.weights == "none" else weights_of(request.weights)
    if model.is_student and request.tune not in (None, "full"):
        raise OptionError(f"tune {request.tune}: alignment trains a whole encoder; remove it")
    if request.teachers and not model.is_student:
        raise OptionError(f"teacher {', '.join(request.teachers)}: only the task alignment uses a teacher; remove it")
    if request.trial and not model.is_student:
        raise OptionError(f"trial {request.trial}: only the task alignment uses a trial; remove it")
    if model.is_student:
        return settings
    if request.tune in ("full", "frozen"):
        settings["frozen"] = request.tune == "frozen"
    if request.tune == "lora":
        settings |= {"frozen": False, "lora": {"rank": _RANK}}
    return settings
