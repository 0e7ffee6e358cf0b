"""A training on data of one's own that fits into a memory: what the planner changes is in the config of the run."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from mmengine.registry import MODELS

from pe_spatial.common.errors import FullDiskError, OptionError, UserError
from pe_spatial.own import costs, memory
from pe_spatial.own.compose import compose
from pe_spatial.own.request import Request
from pe_spatial.training.planner.planning import Plan, find_target
from pe_spatial.training.planner.rows import Row
from pe_spatial.training.planner.timing import StepTime
from pe_spatial.training.planner.variation import variation_of

DATA = Path(__file__).parents[1] / "data" / "formats" / "yolo_polygons"
REQUEST = Request("detection", DATA, model="mask_rcnn-tiny", iterations=4, batch_size=1, accumulate=2, memory="1gb")


def planned(monkeypatch, fits=True, seconds=None, **changes):
    """The planner finds one row, which is the config with some changes."""

    def plan(config, amount):
        assert amount == 1e9
        variation = replace(variation_of(config), **changes)
        row = Row(1, 2, (128, 128), variation, 5e8, 5e8, seconds, (), (0, 0, False), fits)
        return Plan(find_target("cpu"), amount, (row,), None, "")

    monkeypatch.setattr(memory, "plan", plan)


def test_the_run_is_what_was_planned(monkeypatch):
    planned(monkeypatch, checkpointing=True, precision="bf16")
    plain, fitting = compose(replace(REQUEST, memory=None)), compose(REQUEST)
    planned_line, cost = fitting.decisions[-2:]
    changes = planned_line.rpartition("; ")[2].split()
    assert "planned for 1.00 GB" in planned_line and fitting.decisions[:-2] != ()
    assert cost.startswith("cost: 4 images, time not known") and "memory 0.500 GB; disk" in cost
    assert set(changes) == {
        "optim_wrapper.type=Bf16OptimWrapper",
        "model.backbone.checkpointing=true",
        "_image_size=128",
    }
    by_hand = compose(replace(REQUEST, memory=None, overrides=changes))
    assert fitting.config.to_dict() == by_hand.config.to_dict() != plain.config.to_dict()
    assert fitting.config.model.data_preprocessor.pad_to == [128, 128]
    assert fitting.config.train_cfg == plain.config.train_cfg


def test_nothing_that_fits_is_an_error(monkeypatch):
    planned(monkeypatch, fits=False)
    with pytest.raises(UserError, match=r"nothing fits into 1\.00 GB; the smallest needs 0\.500 GB"):
        compose(REQUEST)


def test_processes_do_not_choose_each_for_itself(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionError, match="2 processes, which could choose different settings"):
        compose(REQUEST)


def test_hours_and_disk_are_told_before_it_begins(monkeypatch):
    planned(monkeypatch, seconds=1.0)
    monkeypatch.setattr(costs, "time_training", lambda config: StepTime(1000.0, 0.0, 1.0, 4, 1, 2))
    cost = compose(REQUEST).decisions[-1]
    assert "cost: 4 images, 1:06:40 (h:mm:ss) at 1e+03 s each" in cost
    config = compose(replace(REQUEST, memory=None)).config
    model = MODELS.build({**config.model.to_dict()})
    numbers = sum(each.numel() * each.element_size() for each in model.state_dict().values())
    trained = sum(4 * each.numel() for each in model.parameters() if each.requires_grad)
    assert costs.disk_bytes(config) == 3 * (numbers + 2 * trained) + 2 * numbers


def test_a_disk_that_is_too_small_is_found_first(monkeypatch):
    planned(monkeypatch)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(FullDiskError, match=r"checkpoints of the run need 0\.\d+ GB and 0\.000 GB are free.*--output"):
        compose(REQUEST)
