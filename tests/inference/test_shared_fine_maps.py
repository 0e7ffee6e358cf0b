"""Models on a shared pass whose backbones have finer maps, or are encoders of timm."""

import numpy as np
import pytest
from shared_models import save_shared
from test_shared import largest_difference

from pe_spatial.common.errors import UserError
from pe_spatial.inference.shared import SharedPredictor
from pe_spatial.inference.tasks import open_predictor

FINE = {"type": "joint_bilateral", "stride": 4}
LEARNED = {"type": "learned", "stride": 4, "weights": None}
SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 2}
TIMM = {"type": "TimmBackbone", "model": "vit_tiny_patch16_224", "frozen": True, "options": SMALL, "variant": None}
PICTURES = [np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8) for size in ((48, 64), (64, 40))]


def save(folder, backbones, size_divisor=8):
    """Checkpoints by names of models, from the options of their backbones."""
    preprocessor = {"size_divisor": size_divisor}
    return {
        name: save_shared(folder / f"{name}.pth", name, backbone=backbone, preprocessor=preprocessor)
        for name, backbone in backbones.items()
    }


def require_equal(shared, paths):
    found = shared(PICTURES)
    for name, path in paths.items():
        for together, alone in zip(found, open_predictor(path, "cpu", 1, [])(PICTURES), strict=True):
            assert largest_difference(together[name], alone) <= 5e-6  # the tiles of several maps are others
    assert len(np.unique(found[0]["seg"].pred_sem_seg.data)) > 1


@pytest.mark.parametrize("upsampling", [FINE, LEARNED])
def test_models_with_and_without_finer_maps_share_a_pass(upsampling, tmp_path):
    """The tokens are shared; each model makes its own maps of them."""
    fine = {"upsampling": upsampling}
    paths = save(tmp_path, {"seg": fine, "depth": {**fine, "layers": [1]}, "upernet": {}})
    shared = SharedPredictor(paths, "cpu", must_share="pass")
    require_equal(shared, paths)
    assert shared.passes == (2, 4)


def test_finer_maps_of_timm_are_shared_where_they_are_made_alike(tmp_path):
    pytest.importorskip("timm")
    fine = {**TIMM, "upsampling": FINE}
    paths = save(tmp_path, {"seg": {**fine, "layers": [2]}, "depth": {**fine, "layers": [1]}}, 16)
    shared = SharedPredictor(paths, "cpu", must_share="pass")
    require_equal(shared, paths)
    assert shared.passes == (2, 2)
    others = {"depth": {**fine, "upsampling": {**FINE, "sigma": 0.2}}, "dpt": {**TIMM, "layers": [0, 1, 1, 2]}}
    for name, backbone in others.items():
        mixed = {"seg": paths["seg"], **save(tmp_path, {name: backbone}, 16)}
        with pytest.raises(UserError, match=r"its encoder has (upsampling.sigma 0.2 instead of 0.05|upsampling )"):
            SharedPredictor(mixed, "cpu")
        require_equal(SharedPredictor(mixed, "cpu", must_share="nothing"), mixed)


def test_how_a_checkpoint_stores_an_encoder_does_not_matter(tmp_path):
    pytest.importorskip("timm")
    stored = {**TIMM, "in_checkpoint": True, "norm": False, "upsampling": "bilinear"}
    paths = save(tmp_path, {"seg": TIMM, "depth": stored}, 16)
    assert "share one pass" in SharedPredictor(paths, "cpu", must_share="pass").summary[0]


def test_a_mask_decoder_on_timm_is_refused_or_runs_its_own_pass(tmp_path):
    pytest.importorskip("timm")
    paths = save(tmp_path, {"queries": TIMM, "seg": TIMM}, 16)
    with pytest.raises(
        UserError, match="queries: it runs the last blocks of its encoder itself.*--must-share"
    ) as caught:
        SharedPredictor(paths, "cpu")
    assert "\n" not in str(caught.value)
    shared = SharedPredictor(paths, "cpu", must_share="nothing")
    require_equal(shared, paths)
    assert shared.passes == (2, 0) and shared.summary[0].endswith("it runs its own pass")
