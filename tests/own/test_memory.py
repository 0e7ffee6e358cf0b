"""A training on data of one's own that fits into a memory: what the planner changes is in the config of the run."""

from dataclasses import replace
from pathlib import Path

import pytest

from pe_spatial.common.errors import OptionError, UserError
from pe_spatial.own import memory
from pe_spatial.own.compose import compose
from pe_spatial.own.request import Request
from pe_spatial.training.planner.planning import Plan, find_target
from pe_spatial.training.planner.rows import Row
from pe_spatial.training.planner.variation import variation_of

DATA = Path(__file__).parents[1] / "data" / "formats" / "yolo_polygons"
REQUEST = Request("detection", DATA, model="mask_rcnn-tiny", iterations=4, batch_size=1, accumulate=2, memory="1gb")


def planned(monkeypatch, fits=True, **changes):
    """The planner finds one row, which is the config with some changes."""

    def plan(config, amount):
        assert amount == 1e9
        variation = replace(variation_of(config), **changes)
        row = Row(1, 2, (128, 128), variation, 5e8, 5e8, None, (), (0, 0, False), fits)
        return Plan(find_target("cpu"), amount, (row,), None, "")

    monkeypatch.setattr(memory, "plan", plan)


def test_the_run_is_what_was_planned(monkeypatch):
    planned(monkeypatch, checkpointing=True, precision="bf16")
    plain, fitting = compose(replace(REQUEST, memory=None)), compose(REQUEST)
    changes = fitting.decisions[-1].rpartition("; ")[2].split()
    assert "planned for 1.00 GB" in fitting.decisions[-1] and fitting.decisions[:-1] != ()
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
    with pytest.raises(OptionError, match="2 processes, which could choose differently"):
        compose(REQUEST)
