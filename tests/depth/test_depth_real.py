"""Real measurements: their units, and that a model can learn them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from PIL import Image

import pe_spatial.backbones  # noqa: F401 - registers PEBackbone
from pe_spatial.depth.datasets import DepthFolder, NyuDepth
from pe_spatial.depth.metrics import DepthErrorMetric
from pe_spatial.depth.model import DepthModel

NYU = Path(__file__).parents[3] / "shared" / "data" / "nyu_sample"
RESIZE = {"type": "torchvision.transforms.v2.Resize", "size": [96, 128]}


@pytest.fixture
def nyu(tmp_path):
    if not NYU.is_dir():
        pytest.skip("../shared/data/nyu_sample is not there")
    (tmp_path / "pairs.txt").write_text("rgb.png depth.png 518.8579\n")

    def build(steps):
        return NyuDepth(
            ann_file=str(tmp_path / "pairs.txt"),
            data_prefix={"img_path": str(NYU), "depth_path": str(NYU)},
            depth_range=[0.001, 10],
            pipeline=[*steps, {"type": "PackSample"}],
        )

    return build


@pytest.fixture
def motorcycle(tmp_path):
    """Middlebury's motorcycle: depth = baseline * focal / (disparity + offset of the principal points)."""
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    from skimage.data import stereo_motorcycle

    try:
        left, _, disparity = stereo_motorcycle()
    except (OSError, ImportError, ConnectionError) as error:
        pytest.skip(f"stereo_motorcycle does not come with this scikit-image: {error}")
    meters = np.where(np.isinf(disparity), np.inf, 994.978 * 0.193001 / (disparity + 31.086)).astype(np.float32)
    for folder in ("images", "depth"):
        (tmp_path / folder).mkdir()
    Image.fromarray(left).save(tmp_path / "images/motorcycle.png")
    np.save(tmp_path / "depth/motorcycle.npy", meters)

    def build(steps):
        return DepthFolder(
            data_root=str(tmp_path),
            data_prefix={"img_path": "images", "depth_path": "depth"},
            depth_range=[0.1, 20],
            pipeline=[*steps, {"type": "PackSample"}],
        )

    return build


LOAD = [{"type": "LoadImage"}, {"type": "LoadDepthMap"}]


def test_nyu_is_a_room_of_a_few_meters(nyu):
    sample = nyu(LOAD)[0]
    depth = sample["data_samples"].gt_depth.data
    assert sample["inputs"].shape == (3, 480, 640) and depth.shape == (1, 480, 640)
    assert float((depth == 0).float().mean()) == pytest.approx(0.3187, abs=1e-4)
    assert float(depth.max()) == pytest.approx(10.0) and 3.4 < float(depth[depth > 0].median()) < 3.6


def test_motorcycle_stands_a_few_meters_away(motorcycle):
    depth = motorcycle(LOAD)[0]["data_samples"].gt_depth.data
    assert depth.shape == (1, 500, 741)
    assert float((depth == 0).float().mean()) == pytest.approx(0.0735, abs=1e-4)  # disparity +inf
    assert float(depth[depth > 0].min()) == pytest.approx(2.110, abs=1e-3)
    assert float(depth.max()) == pytest.approx(5.017, abs=1e-3)


@pytest.mark.parametrize(
    ("picture", "depth_range", "steps", "lr"), [("nyu", [0.001, 10], 100, 6e-3), ("motorcycle", [0.1, 20], 160, 4e-3)]
)
def test_a_small_model_fits_it(picture, depth_range, steps, lr, request):
    """Trained on the picture at 96x128, judged at the resolution of its depth map."""
    build = request.getfixturevalue(picture)
    train = build([*LOAD, RESIZE])
    validation = build([{"type": "LoadImage"}, RESIZE, {"type": "LoadDepthMap"}])
    torch.manual_seed(0)
    tiny = {"name": "tiny", "patch_size": 16, "width": 64, "depth": 2, "heads": 2, "mlp_ratio": 2, "image_size": 96}
    model = DepthModel(
        backbone={"type": "PEBackbone", "variant": {**tiny, "cls_token": False}, "layers": [1]},
        head={"type": "DPTDepthHead", "depth_range": depth_range, "channels": 24},
        losses=[{"type": "ScaleInvariantLogLoss"}],
        data_preprocessor={"type": "DensePreprocessor", "size_divisor": 16},
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    batch = model.data_preprocessor(pseudo_collate([train[0]]), training=True)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model(**batch, mode="loss").values()).backward()
        optimizer.step()
        scheduler.step()
    metric = DepthErrorMetric(depth_range, crop="nyu_eigen" if picture == "nyu" else None)
    with torch.no_grad():
        predictions = model.eval().test_step(pseudo_collate([validation[0]]))
    metric.process(None, [sample.to_dict() for sample in predictions])
    scores = metric.evaluate(1)
    assert scores["depth/abs_rel"] < 0.05 and scores["depth/delta1"] > 0.95
