"""A second head on the encoder of a run: its options, weights and pictures, so that both share a pass."""

import numpy as np
import pytest
from shared_models import save_shared
from small_segmenters import save_photos

import pe_spatial
from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import OptionError
from pe_spatial.own.compose import compose
from pe_spatial.own.request import Request
from pe_spatial.training.config import dump_config

FAST = {"epochs": 1, "workers": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Drawn scenes (`drawn`), and the run of a first head on them (`seg`), whose encoder is frozen."""
    folder = tmp_path_factory.mktemp("second")
    drawn = ["--output", str(folder / "drawn"), "--images", "6", "--image-size", "64", "--no-photographs"]
    assert run_command("demo", drawn) == 0
    options = {"model": "linear-tiny", "image_size": 64, "tune": "frozen", "overrides": ["experiment_name=first"]}
    pe_spatial.train("segmentation", data=folder / "drawn", output=folder / "seg", **FAST, **options)
    return folder


def composed(place, task="depth", **options):
    return compose(Request(task, place / "drawn", encoder_from=place / "seg", **FAST, **options))


def test_two_heads_share_a_pass(place):
    second = {"output": place / "depth", "encoder_from": place / "seg", "overrides": ["experiment_name=second"]}
    pe_spatial.train("depth", data=place / "drawn", **FAST, **second)
    shared = pe_spatial.SharedPredictor({"seg": place / "seg", "depth": place / "depth"}, "cpu")
    assert shared.summary[0] == "seg, depth share one pass of tiny, layers 0, 1, 2, 3"
    (photo,) = save_photos(place / "photos", wide=(64, 100)).iterdir()
    found = shared(photo)
    assert found["seg"].pred_sem_seg.data.shape == found["depth"].pred_depth.data.shape == (1, 64, 100)
    # three windows for both; the depth of tiles follows that of the whole picture, which the segmenter does not see
    assert shared.passes == (4, 3)
    alone = pe_spatial.Predictor(place / "depth", "cpu")(photo)
    assert np.allclose(alone.pred_depth.data, found["depth"].pred_depth.data, atol=1e-6)


def test_the_config_has_what_the_run_had(place):
    composition = composed(place, "detection")
    model = composition.config.model
    assert model.backbone.frozen is True and model.backbone.window is None
    assert str(place / "seg") in model.backbone.weights
    assert model.data_preprocessor.mean == [127.5] * 3 and model.data_preprocessor.pad_to is None
    steps = composition.config.val_dataloader.dataset.pipeline
    assert [step.type for step in steps] == ["LoadImage", "KeepRatioResize", "PackSample"]
    assert (steps[1]["size"], steps[1].max_size) == (64, 2048)
    assert any(line.startswith("encoder: that of ") for line in composition.lines)


def test_labels_are_loaded_after_the_resize_of_the_run(place):
    steps = composed(place).config.val_dataloader.dataset.pipeline
    assert [step.type for step in steps] == ["LoadImage", "KeepRatioResize", "LoadDepthMap", "PackSample"]


def test_the_printed_config_is_the_run(place, tmp_path):
    from pe_spatial.training.config import load_config

    composition = composed(place)
    dump_config(composition.config, tmp_path / "printed.yaml")
    assert load_config(tmp_path / "printed.yaml").to_dict() == composition.config.to_dict()


def test_what_trains_the_encoder_takes_no_run(place):
    with pytest.raises(OptionError, match="alignment trains the encoder itself"):
        composed(place, "alignment")


def test_a_run_on_an_encoder_of_timm_is_refused_in_a_line(place, tmp_path, capsys):
    pytest.importorskip("timm")
    backbone = {"type": "TimmBackbone", "model": "test_vit", "variant": None}
    run = save_shared(tmp_path / "seg.pth", "seg", backbone=backbone, preprocessor={"size_divisor": 16})
    words = ["depth", "--data", str(place / "drawn"), "--encoder-from", str(run), "--output", str(tmp_path / "out")]
    assert run_command("train", words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "its backbone is TimmBackbone; encoder_from needs a run with a PEBackbone" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"weights": "none"}, "remove weights"),
        ({"tune": "full"}, "remove tune"),
        ({"model": "dpt-s"}, "give dpt-tiny"),
    ],
)
def test_what_contradicts_it_is_refused(place, options, text):
    with pytest.raises(OptionError, match=text):
        composed(place, **options)
