"""What a training on one image takes: steps, workers that load, and the cores that both share."""

import itertools

import pytest
import torch
from mmengine.registry import DefaultScope

import pe_spatial.alignment  # noqa: F401 - registers
from pe_spatial.own.compose import compose
from pe_spatial.own.models import TINY_ENCODER
from pe_spatial.own.request import Request
from pe_spatial.training.planner.inputs import make_batch
from pe_spatial.training.planner.timing import StepTime, time_training


@pytest.mark.parametrize(
    ("workers", "cores", "loading", "image"),
    [
        (0, 2, 1.0, 4.0),  # one after the other
        (2, 8, 1.0, 3.0),  # loaded while a step computes
        (2, 8, 8.0, 4.0),  # the step waits for the workers
        (2, 2, 4.0, 3.5),  # one core for the step, and both have 7 s to do
        (2, None, 8.0, 4.0),  # a GPU computes the steps
    ],
)
def test_an_image_takes_what_takes_longest(workers, cores, loading, image):
    found = StepTime(3.0, 1.0, loading, workers, 1, cores)
    assert found.image == image
    assert found.waits == (loading == 8.0)


@pytest.fixture
def config(tmp_path, photographs_folder):
    """A student of two tiny teachers, composed as the command does it."""
    return compose(
        Request(
            "alignment",
            photographs_folder,
            model="core-tiny",
            weights="none",
            teacher=[tmp_path / "a.pt", tmp_path / "b.pt"],
            image_size=64,
            batch_size=2,
            workers=0,
            output=tmp_path / "run",
        )
    ).config


@pytest.fixture
def photographs_folder(tmp_path):
    from PIL import Image

    from pe_spatial.backbones import PEBackbone

    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (80, 64), (40 * number, 90, 10)).save(folder / f"{number}.png")
    for name in ("a.pt", "b.pt"):
        torch.save(PEBackbone(TINY_ENCODER).encoder.state_dict(), tmp_path / name)
    return folder


def test_whole_steps_are_timed_and_the_teachers_in_them(config):
    ticks = itertools.count()
    state = torch.get_rng_state()
    found = time_training(config, lambda: float(next(ticks)))
    # a tick at each reading: beginning and end of the step, and of both teachers
    assert found.step == pytest.approx(5 / 2)
    assert found.teachers == pytest.approx(2 / 2)
    assert found.loading == pytest.approx(1 / 2)
    assert found.workers == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_made_batches_have_the_windows_that_a_student_needs(config):
    config.model.views = {"shift": 1}
    config.train_dataloader.dataset.pipeline.insert(-1, {"type": "RandomShifts", "most": 1, "windows": 3})
    with DefaultScope.overwrite_default_scope("mmengine"):
        batch = make_batch(config, 2, (64, 64))
    for sample in batch["data_samples"]:
        assert len(sample.shifts) == 3
        assert sample.token_mask.shape[-2:] == (4, 4)
