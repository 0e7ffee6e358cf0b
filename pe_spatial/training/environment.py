"""What holds for the process while a run lasts: threads, the type of autocast, and one form of everything said."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import torch
from mmengine.dist import is_main_process

from pe_spatial.training.amp import evaluation_dtype

# nothing that a user of ours could act on
_HARMLESS = (
    ".*Fail to import ..MultiScaleDeformableAttention",
    ".*lr_scheduler.step.*before.*optimizer.step",
    ".*pin_memory. argument is set as true but no accelerator",
    ".*torch.jit.script",
    ".*Multi-processing start method",
    ".*Setting (OMP|MKL)_NUM_THREADS environment variable",
)
_LIBRARIES = ("mmengine", "mmcv", "mmseg", "torch")


@contextmanager
def run_environment(config: Any) -> Iterator[None]:
    """Settings of the process that a run needs; when it ends they are what they were before.

    `val_cfg.fp16` and `test_cfg.fp16` mean bfloat16 where the model is trained in it: mmengine's loops take CUDA's
    default type of autocast, which is float16.
    """
    threads, threads_of_cv2, dtype = torch.get_num_threads(), cv2.getNumThreads(), torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", evaluation_dtype(config))
    try:
        with warnings.catch_warnings():
            for message in _HARMLESS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        torch.set_autocast_dtype("cuda", dtype)
        cv2.setNumThreads(threads_of_cv2)
        torch.set_num_threads(threads)


class _Line(logging.Formatter):
    """`12:30:01 message`; what is above INFO says so."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{self.formatTime(record, '%H:%M:%S')} {prefix}{record.getMessage()}"


def set_console(logger: logging.Logger, level: str) -> None:
    """Let the logger of a run show our lines and everybody's warnings."""
    for handler in logger.handlers:
        is_file = isinstance(handler, logging.FileHandler)
        if is_file or is_main_process():
            handler.setLevel(level)
        if not is_file:
            handler.setFormatter(_Line())
            handler.addFilter(lambda record: record.levelno > logging.INFO or _speaker() not in _LIBRARIES)


def _speaker() -> str:
    """The package whose code is logging right now."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if module != __name__ and not module.startswith(("logging", "mmengine.logging")):
            return module.partition(".")[0]
        frame = frame.f_back
    return ""
