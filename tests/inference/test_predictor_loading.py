"""A `Predictor` takes over the weights of its file: no random ones are drawn, and they are in memory once."""

from pathlib import Path

import pytest
import torch
from children import CONTEXT
from small_segmenters import save_segmenter

from pe_spatial.inference import predictor as predictors
from pe_spatial.inference.predictor import Predictor
from pe_spatial.training.checkpoint import load_checkpoint

WIDE = {"type": "PEBackbone", "variant": {"base": "PE-Spatial-B16-512", "name": "wide", "depth": 3}}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A checkpoint of 90 MB."""
    preprocessor = {"type": "DensePreprocessor", "size_divisor": 16}
    folder = tmp_path_factory.mktemp("wide")
    return save_segmenter(folder / "model.pth", backbone=WIDE, data_preprocessor=preprocessor)


def test_weights_are_views_of_the_file_and_nothing_is_drawn(wide, monkeypatch):
    loaded = {}
    adopt = predictors.adopt_weights
    monkeypatch.setattr(predictors, "adopt_weights", lambda model, state: loaded.update(state) or adopt(model, state))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = Predictor(wide, "cpu").model
    assert torch.equal(torch.get_rng_state(), before)
    saved = load_checkpoint(wide)["state_dict"]
    assert loaded.keys() == saved.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert value.data_ptr() == loaded[key].data_ptr() and torch.equal(value, saved[key]), key


def memory_of_loading(path, report, copied):
    """Write the peak of the memory while a predictor is built, in sizes of its file."""

    def status(field):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024

    Predictor(path, "cpu")  # what is loaded of libraries at the first time does not count
    if copied:
        predictors.adopt_weights = lambda model, state: model.load_state_dict(state)
    before = status("VmRSS")
    Predictor(path, "cpu")
    Path(report).write_text(str((status("VmHWM") - before) / path.stat().st_size))


def test_the_weights_are_in_memory_once(wide, tmp_path):
    def copies(copied):
        process = CONTEXT.Process(target=memory_of_loading, args=(wide, tmp_path / "report", copied))
        process.start()
        process.join(100)
        assert process.exitcode == 0
        return float((tmp_path / "report").read_text())

    assert min(copies(copied=False) for _ in range(2)) < 1.4
    assert copies(copied=True) > 1.7  # the measure would see a second copy


def test_a_file_that_is_replaced_changes_no_loaded_weights(tmp_path):
    path = save_segmenter(tmp_path / "model.pth")
    model = Predictor(path, "cpu").model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    save_segmenter(path, seed=1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not torch.equal(load_checkpoint(path)["state_dict"]["backbone.encoder.conv1.weight"],
                           before["backbone.encoder.conv1.weight"])  # fmt: skip
