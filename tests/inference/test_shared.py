"""Several models on one frozen encoder: what each predicts alone, one pass for all, and what cannot be shared."""

import copy

import numpy as np
import pytest
import torch
from shared_models import MODELS_BY_NAME, PIPELINE, save_shared

from pe_spatial.common.errors import CheckpointError, ConfigError, OptionError, UserError
from pe_spatial.data import decode_masks
from pe_spatial.inference import shared_pass
from pe_spatial.inference.shared import MUST_SHARE, SharedPredictor
from pe_spatial.inference.tasks import open_predictor
from pe_spatial.tracking.model import VideoTracker

SIZES = [(48, 64), (64, 40), (64, 64), (48, 64), (48, 64), (48, 64), (100, 30)]
SMALLER = [PIPELINE[0], {"type": "KeepRatioResize", "max_size": 32}, PIPELINE[2]]


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: save_shared(folder / f"{name}.pth", name) for name in MODELS_BY_NAME}


@pytest.fixture
def other(tmp_path, checkpoints):
    """A shared predictor of the segmenter, and of a model that is given by its options."""

    def build(name="depth", must_share="encoder", **options):
        path = save_shared(tmp_path / "other.pth", name, **options)
        return SharedPredictor({"seg": checkpoints["seg"], "other": path}, "cpu", must_share=must_share)

    return build


def largest_difference(shared, alone):
    """Between the fields of two predictions."""
    worst = 0.0
    assert set(shared.keys()) == set(alone.keys())
    for field in alone.keys():  # noqa: SIM118 - no mapping
        ours, theirs = shared.get(field), alone.get(field)
        parts = theirs.keys() if field == "pred_instances" else ["data"]
        for part in parts:
            a, b = (getattr(each, part) for each in (ours, theirs))
            if part == "masks":
                a, b = decode_masks(a), decode_masks(b)
            a, b = torch.as_tensor(a).float(), torch.as_tensor(b).float()
            assert a.shape == b.shape
            worst = max(worst, float((a - b).abs().max()) if a.numel() else 0.0)
    return worst


@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_model_predicts_what_it_predicts_alone(checkpoints, pictures, batch_size):
    shared = SharedPredictor(checkpoints, "cpu", batch_size)
    found = shared(pictures)
    for name, path in checkpoints.items():
        for together, alone in zip(found, open_predictor(path, "cpu", batch_size, [])(pictures), strict=True):
            assert largest_difference(together[name], alone) <= 1e-6
    computed, reused = shared.passes
    if batch_size == 1:  # each picture is seen once
        assert (computed, reused) == (len(pictures), (len(checkpoints) - 1) * len(pictures))


def test_the_predictions_are_not_the_same_everywhere(checkpoints, pictures):
    """Or the equality above would say nothing."""
    found = SharedPredictor({name: checkpoints[name] for name in ("seg", "depth")}, "cpu")(pictures[:2])
    assert all(len(each["seg"].pred_sem_seg.data.unique()) > 1 for each in found)
    assert all(each["depth"].pred_depth.data.std() > 0.1 for each in found)


def test_the_layers_are_united_and_what_is_shared_is_said(checkpoints):
    shared = SharedPredictor({name: checkpoints[name] for name in ("dpt", "queries")}, "cpu")
    assert shared.summary == ("dpt, queries share one pass of tiny, layers 0, 1, 2",)
    alone = SharedPredictor({"queries": checkpoints["queries"], "seg": checkpoints["seg"]}, "cpu")
    assert alone.summary == ("queries, seg share one pass of tiny, layers 1, 2",)  # the block before the queries


def test_equal_weights_are_in_memory_once(checkpoints):
    shared = SharedPredictor({name: checkpoints[name] for name in ("seg", "depth")}, "cpu")
    first, second = (
        {
            name.removeprefix("own."): tensor.data_ptr()
            for name, tensor in each.model.backbone.encoder.named_parameters()
        }
        for each in shared.predictors.values()
    )
    assert first == second and len(set(first.values())) == len(first)


def test_what_does_not_fit_the_memory_is_computed_anew(checkpoints, pictures, monkeypatch):
    monkeypatch.setattr(shared_pass, "KEPT", 0)
    shared = SharedPredictor({name: checkpoints[name] for name in ("seg", "depth")}, "cpu")
    shared(pictures[0])
    assert shared.passes == (2, 0)


def test_windows_and_tiles_that_are_equal_are_seen_once(tmp_path, pictures):
    windows = {"size": [32, 32], "stride": [16, 16]}
    paths = {
        "seg": save_shared(tmp_path / "seg.pth", "seg", window=windows),
        "depth": save_shared(tmp_path / "depth.pth", "depth", tiling={"tile": [32, 32], "stride": [16, 16]}),
    }
    shared = SharedPredictor(paths, "cpu")
    found = shared(pictures[0])  # 48 x 64: 2 x 3 windows, and the whole picture that the scales of tiles follow
    assert shared.passes == (7, 6)
    assert "see pictures in parts of their own (seg: window" in shared.summary[1]
    for name, path in paths.items():
        assert largest_difference(found[name], open_predictor(path, "cpu", 1, [])(pictures[0])) <= 1e-6


def test_two_models_of_one_task_and_one_model_alone(checkpoints, pictures):
    shared = SharedPredictor({"a": checkpoints["seg"], "b": checkpoints["upernet"]}, "cpu")
    assert set(shared(pictures[0])) == {"a", "b"}
    alone = SharedPredictor({"a": checkpoints["seg"]}, "cpu")
    assert alone.summary == () and set(alone(pictures[0])) == {"a"}


def test_encoders_of_timm_are_shared_too(tmp_path, pictures):
    pytest.importorskip("timm")
    options = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    encoder = {"type": "TimmBackbone", "model": "vit_tiny_patch16_224", "frozen": True, "options": options}
    paths = {}
    for name, layers in (("seg", [1]), ("depth", [0])):
        backbone = {**encoder, "layers": layers, "variant": None}
        preprocessor = {"size_divisor": 16}
        paths[name] = save_shared(tmp_path / f"{name}.pth", name, backbone=backbone, preprocessor=preprocessor)
    shared = SharedPredictor(paths, "cpu", must_share="pass")
    found = shared(pictures[:2])
    assert shared.passes == (2, 2) and "layers 0, 1" in shared.summary[0]
    for name, path in paths.items():
        for together, alone in zip(found, open_predictor(path, "cpu", 1, [])(pictures[:2]), strict=True):
            assert largest_difference(together[name], alone) <= 1e-6


# --- tracking ---------------------------------------------------------------------------------------------------------
def build_tracker(shared, **resizing):
    backbone = copy.deepcopy(open_predictor(shared.predictors["seg"].checkpoint, "cpu", 1, []).model.backbone)
    normalization = {"type": "DensePreprocessor", "size_divisor": 8}
    return VideoTracker(backbone, resizing, normalization=normalization)


@pytest.fixture
def film():
    rng = np.random.default_rng(1)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:40, 16:40] = 1
    return [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(3)], {0: mask}


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_tracker_takes_the_pass_of_the_models(checkpoints, film, batch_size):
    frames, masks = film
    shared = SharedPredictor({name: checkpoints[name] for name in ("seg", "depth")}, "cpu", batch_size)
    tracker = build_tracker(shared, short_side=64)
    expected = [ids.clone() for ids in build_tracker(shared, short_side=64).track(frames, masks)]
    alone = SharedPredictor({"seg": checkpoints["seg"]}, "cpu")(frames)
    for _ in range(2):  # a second video begins anew
        found = list(shared.track(tracker, frames, masks))
        assert all(torch.equal(ids, wanted) for (_, ids), wanted in zip(found, expected, strict=True))
        assert all(
            largest_difference(each["seg"], one["seg"]) <= 1e-6 for (each, _), one in zip(found, alone, strict=True)
        )
    assert shared.passes == (6, 12) and len(shared.summary) == 1


def test_a_tracker_that_sees_other_frames_runs_its_own_pass(checkpoints, film):
    shared = SharedPredictor({name: checkpoints[name] for name in ("seg", "depth")}, "cpu")
    found = list(shared.track(build_tracker(shared, short_side=32), *film))
    assert len(found) == 3 and shared.passes == (6, 3)
    assert shared.summary[1] == (
        "the tracker sees frames of 32 x 32 pixels (H x W) that no model sees; it runs its own pass"
    )
    strict = SharedPredictor({name: checkpoints[name] for name in ("seg", "depth")}, "cpu", must_share="pass")
    with pytest.raises(UserError, match="that no model sees"):
        list(strict.track(build_tracker(strict, short_side=32), *film))


def test_a_tracker_on_another_encoder_is_refused(checkpoints, film):
    shared = SharedPredictor({"seg": checkpoints["seg"]}, "cpu")
    tracker = build_tracker(shared, short_side=64)
    torch.nn.init.zeros_(tracker.backbone.encoder.conv1.weight)
    with pytest.raises(UserError, match="the tracker cannot share the pass of seg: .*conv1.weight is the first"):
        list(shared.track(tracker, *film))
    with pytest.raises(OptionError, match="nothing to track"):
        list(shared.track(tracker, film[0], {}))


# --- what cannot be shared --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"backbone": {"pos_embed": "bicubic"}}, "other cannot share .* pos_embed 'bicubic' instead of 'bilinear'"),
        ({"backbone": {"window": 2}}, "its encoder has window 2 instead of None"),
        ({"backbone": {"rope": "interpolate"}}, "rope 'interpolate' instead of 'extrapolate'"),
        ({"seed": 1}, "class_embedding is the first that differs, by up to "),
        ({"seed": 1, "backbone": {"frozen": False}}, "the encoder of other was trained in its run: .*--encoder-from"),
        ({"backbone": {"frozen": False, "lora": {"rank": 2}}}, "other: its encoder has adapters .LoRA.*merged or not"),
    ],
)
def test_encoders_that_differ_are_an_error_or_run_alone(other, options, text):
    with pytest.raises(UserError, match=text) as caught:
        other(**options)
    assert "--must-share" in str(caught.value) and "\n" not in str(caught.value)
    assert any(line.endswith("; it runs its own pass") for line in other(must_share="nothing", **options).summary)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pipeline": SMALLER}, "resizes pictures by KeepRatioResize.max_size=32. instead of .*max_size=64"),
        ({"preprocessor": {"mean": [127] * 3}}, "is given pictures with mean.0 127.0 instead of 127.5"),
        ({"preprocessor": {"pad_to": [64, 64]}}, "is given pictures with "),
    ],
)
def test_pictures_that_differ_are_said_or_an_error(other, pictures, options, text):
    with pytest.raises(UserError, match=f"cannot share the pass of seg: .*{text}"):
        other(must_share="pass", **options)
    shared = other(**options)
    assert any("it runs its own pass" in line for line in shared.summary)
    assert set(shared(pictures[0])) == {"seg", "other"} and shared.passes == (2, 0)


def test_each_picture_is_read_by_one_rule(other):
    reading = [{"type": "LoadImage", "value_range": [0, 4095]}, *PIPELINE[1:]]
    with pytest.raises(UserError, match="other reads pictures differently from seg .value_range"):
        other(must_share="nothing", pipeline=reading)


def test_a_trained_encoder_is_shared_by_a_head_that_was_trained_on_it(other):
    assert other(backbone={"frozen": False}).summary == ("seg, other share one pass of tiny, layers 2",)


@pytest.mark.parametrize("name", ["a/b", "", ".", "..", "a=b", "\n"])
def test_names_are_those_of_folders(checkpoints, name):
    with pytest.raises(OptionError, match="cannot be the name of a results folder"):
        SharedPredictor({name: checkpoints["seg"]}, "cpu")


def test_mistakes_are_named(checkpoints, tmp_path):
    with pytest.raises(OptionError, match="'SEG' is given twice|'seg' is given twice"):
        SharedPredictor({"seg": checkpoints["seg"], "SEG": checkpoints["seg"]}, "cpu")
    with pytest.raises(OptionError, match="no checkpoint is given"):
        SharedPredictor({}, "cpu")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        SharedPredictor({"seg": tmp_path / "nowhere"}, "cpu")
    with pytest.raises(ConfigError, match="write the name first: seg.model.window=null"):
        SharedPredictor({"seg": checkpoints["seg"]}, "cpu", overrides=["model.window=null"])
    with pytest.raises(OptionError, match=", ".join(MUST_SHARE)):
        SharedPredictor({"seg": checkpoints["seg"]}, "cpu", must_share="all")
    torch.save({"state_dict": {}}, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="bare.pth"):
        SharedPredictor({"seg": checkpoints["seg"], "bare": tmp_path / "bare.pth"}, "cpu")
