"""The training of an upsampler: what it learns, its file, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from alignment_scenes import CORE, scene, write_core
from mmengine.structures import BaseDataElement
from PIL import Image

from pe_spatial.alignment.upsampler import UpsamplerTraining, error_of
from pe_spatial.backbones import PEBackbone
from pe_spatial.common.errors import ConfigError, OptionError
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import train

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
_base_:
  - {root}/configs/_base_/runtime.yaml
  - {root}/configs/_base_/models/upsampling.yaml
  - {root}/configs/_base_/schedules/cosine.yaml
  - {root}/configs/_base_/datasets/photographs.yaml
_image_size: 64
model: {{backbone: {{variant: {core}, weights: {weights}}}}}
train_dataloader:
  batch_size: 4
  num_workers: 0
  persistent_workers: false
  dataset: {{type: ImageFolder, source: {images}}}
val_dataloader: {{num_workers: 0, dataset: {{source: {images}}}}}
optim_wrapper: {{optimizer: {{lr: 1e-2}}}}
param_scheduler: null
train_cfg: {{max_iters: 6, val_interval: 6}}
default_hooks: {{checkpoint: {{best: upsampling/error, rule: less}}, pictures: null}}
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(write_core(tmp_path_factory.mktemp("core") / "core.pt"))


def build(weights, **changes):
    backbone = {"type": "PEBackbone", "variant": CORE, "weights": weights, "frozen": True}
    return UpsamplerTraining(backbone, {"stride": 2}, **changes)


def test_a_run_writes_the_upsampler_of_its_encoder(weights, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(4):
        picture = scene(number, size=64)["inputs"].permute(1, 2, 0).numpy()
        Image.fromarray(picture).save(tmp_path / "images" / f"{number}.png")
    values = {"root": ROOT, "core": json.dumps(CORE), "weights": weights, "images": tmp_path / "images"}
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(**values))
    config = load_config(tmp_path / "tiny.yaml")
    config.work_dir = str(tmp_path / "run")
    train(config, "never")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "upsampling/error" in json.dumps(result)
    settings = {"type": "learned", "stride": 4, "weights": str(tmp_path / "run" / "upsampler.safetensors")}
    backbone = PEBackbone(CORE, weights=weights, upsampling=settings)
    assert float(backbone.upsampler.see[-1].weight.abs().max()) > 0  # it was zero before


def test_it_learns_and_the_encoder_does_not(weights):
    torch.manual_seed(0)
    model = build(weights)
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    batch = model.data_preprocessor({"inputs": [scene(number, size=96)["inputs"] for number in range(4)]})["inputs"]
    optimizer = torch.optim.Adam(model.upsampler.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = model(batch, [], "loss")["loss_upsampling"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
    (sample,) = model(batch[:1], [BaseDataElement()], "predict")
    assert 0 < sample.upsampling["error"] < sample.upsampling["bilinear_error"]
    assert model(batch)[0].shape == (4, CORE["width"], 48, 48)


def test_the_error_of_equal_maps_is_zero_and_that_of_their_mean_one():
    target = torch.randn(2, 3, 4, 4)
    fine = target.repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(error_of(fine, target), torch.zeros(2))
    mean = target.mean((0, 2, 3), keepdim=True).expand(2, 3, 8, 8)
    torch.testing.assert_close(error_of(mean, target).mean(), torch.tensor(31 / 32))  # of an unbiased variance


def test_what_it_cannot_train_is_refused(weights):
    with pytest.raises(ConfigError, match="set backbone.frozen: true"):
        UpsamplerTraining({"type": "PEBackbone", "variant": CORE}, {"stride": 2})
    fine = {"type": "PEBackbone", "variant": CORE, "frozen": True, "upsampling": {"type": "bilinear", "stride": 2}}
    with pytest.raises(OptionError, match="leave upsampling out"):
        UpsamplerTraining(fine, {"stride": 2})
    with pytest.raises(OptionError, match="reduction 1 must be a whole number of at least 2"):
        build(weights, reduction=1)
    with pytest.raises(OptionError, match="make both sides multiples of 32"):
        build(weights)(torch.zeros(1, 3, 40, 32), [], "loss")
