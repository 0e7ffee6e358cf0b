"""What follows from the length of a run: whole epochs, schedules in proportion, the scaling of the learning rate."""

import pytest
import torch
from mmengine.optim import CosineAnnealingLR, LinearLR

from pe_spatial.own.length import find_length, momentum, scaled_rate, stretch
from pe_spatial.own.request import Request

LINEAR = {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": 500}
COSINE = {"type": "CosineAnnealingLR", "by_epoch": False, "begin": 500}
STEPS = {"type": "MultiStepLR", "milestones": [8000, 9000], "gamma": 0.1, "by_epoch": False}
STAGED = {"type": "StagedWarmupPolyLR", "warmup": [200, 400], "power": 0.9, "by_epoch": False}


@pytest.mark.parametrize("images", [1, 5, 80, 1001])
@pytest.mark.parametrize(("batch", "processes"), [(1, 1), (4, 1), (3, 4)])
@pytest.mark.parametrize("epochs", [0.5, 1, 20])
def test_every_picture_is_seen_as_often_as_asked(images, batch, processes, epochs):
    length = find_length(Request("depth", "d", epochs=epochs), images, batch, processes)
    seen = length.iterations * batch * processes
    assert epochs * images <= seen < epochs * images + batch * processes
    assert length.epochs == pytest.approx(seen / images)
    assert 1 <= length.interval <= length.iterations
    assert length.iterations / length.interval <= 20


def test_iterations_are_taken_as_they_are():
    assert find_length(Request("depth", "d", iterations=7), 100, 4, 2).iterations == 7


def test_a_schedule_of_the_same_length_is_the_same():
    assert stretch([LINEAR, COSINE, STEPS, STAGED], 1.0) == [LINEAR, COSINE, STEPS, STAGED]


def test_a_schedule_is_stretched_in_proportion():
    linear, cosine, steps, staged = stretch([LINEAR, COSINE, STEPS, STAGED], 2.5)
    assert linear["end"] == cosine["begin"] == 1250 and linear["start_factor"] == 0.01
    assert steps == {**STEPS, "milestones": [20000, 22500]}
    assert staged["warmup"] == [500, 1000]


@pytest.mark.parametrize("iterations", range(1, 60))
def test_no_schedule_begins_after_its_run(iterations):
    """A warm-up of which nothing is left is dropped, and what follows begins inside of the run."""
    for scheduler in stretch([LINEAR, COSINE], iterations / 10000):
        assert scheduler.get("end") is None or scheduler["end"] > scheduler["begin"]
        assert scheduler["begin"] < iterations


@pytest.mark.parametrize("iterations", [5, 20, 30, 40, 100])
def test_the_rate_of_a_short_run_leaves_its_warm_up(iterations):
    """A warm-up of one iteration would hold the rate at a hundredth to the end."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    kinds = {"LinearLR": LinearLR, "CosineAnnealingLR": CosineAnnealingLR}
    schedulers = []
    for each in stretch([LINEAR, COSINE], iterations / 10000):
        settings = {key: value for key, value in each.items() if key != "type"}
        length = {} if each["type"] == "LinearLR" else {"T_max": iterations - each["begin"], "end": iterations}
        schedulers.append(kinds[each["type"]](optimizer, **settings, **length))
    rates = []
    for _ in range(iterations):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert max(rates) > 0.9
    assert rates[-1] < 0.2


def test_the_rate_of_the_reference_batch_is_that_of_the_recipe():
    assert scaled_rate(1e-4, 16, 16) == 1e-4
    assert scaled_rate(1e-4, 4, 16) == 5e-5
    assert scaled_rate(1e-4, 64, 16) == 2e-4


def test_averaged_weights_look_back_over_a_share_of_the_run():
    assert momentum(10) == 0.1
    assert momentum(20000) == 0.001
