"""One finished run of the toy task for all tests that look at what a run leaves."""

import resource
import signal
from contextlib import contextmanager

import pytest
import toy_task

from pe_spatial.training.launch import train


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(path of the config, work folder)."""
    folder = tmp_path_factory.mktemp("finished")
    images = toy_task.write_images(folder / "images")
    pictures = "{type: PictureHook, number: 2, threshold: 0.1}"
    path = toy_task.write_config(folder, images, pictures=pictures, max_iters=6, val_interval=3, save=2)
    train(toy_task.load(path, folder / "run"))
    return path, folder / "run"


@pytest.fixture
def small_files():
    """A block in which no file may grow beyond a size: a write fails half way, as on a full disk or at a quota."""

    @contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limit
