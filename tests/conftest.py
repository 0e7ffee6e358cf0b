"""One finished run of the toy task for all tests that look at what a run leaves."""

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
