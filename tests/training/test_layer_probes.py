import copy

import pytest
import torch
from mmengine.registry import METRICS, MODELS
from mmengine.structures import BaseDataElement, PixelData

import pe_spatial.backbones
import pe_spatial.depth  # noqa: F401 - both register what is probed
from pe_spatial.common.errors import ConfigError
from pe_spatial.training.layer_probes import LayerProbes, PerLayerMetric

VARIANT = {"name": "tiny", "patch_size": 8, "width": 16, "depth": 3, "heads": 2, "mlp_ratio": 2, "image_size": 32}
VARIANT["cls_token"] = False
MODEL = {
    "type": "DepthModel",
    "backbone": {"type": "PEBackbone", "variant": VARIANT, "layers": [-1], "frozen": True},
    "head": {"type": "LinearBinsHead", "depth_range": [0.5, 12]},
    "losses": [{"type": "ScaleInvariantLogLoss"}],
    "tiling": {"tile": [32, 32], "overlap": 0.25},
}


def samples(count, size):
    found = []
    for index in range(count):
        sample = BaseDataElement(metainfo={"img_path": f"{index}.png", "ori_shape": size, "img_shape": size})
        sample.set_field(PixelData(data=torch.rand(1, *size) * 10 + 1), "gt_depth", dtype=PixelData)
        found.append(sample)
    return found


def probes_and_alone():
    torch.manual_seed(0)
    together = LayerProbes(copy.deepcopy(MODEL), [0, 2])
    alone = MODELS.build({**MODEL, "backbone": {**MODEL["backbone"], "layers": [2]}})
    alone.backbone.load_state_dict(together.encoder.state_dict())
    alone.head.load_state_dict(together.probes["2"].head.state_dict())
    return together, alone


def test_a_probe_among_others_learns_and_predicts_as_it_does_alone():
    together, alone = probes_and_alone()
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.1) for m in (together, alone)]
    for _ in range(3):
        inputs, targets = torch.randn(2, 3, 32, 32), samples(2, (32, 32))
        for model, optimizer in zip((together, alone), optimizers, strict=True):
            losses = model(inputs, targets, "loss")
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
        assert losses.keys() == {"loss_silog"}
    for a, b in zip(together.probes["2"].head.parameters(), alone.head.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1.3e-6, atol=3e-5)  # steps of Adam enlarge the last digits of a processor
    together.eval(), alone.eval()
    with torch.no_grad():
        image = torch.randn(1, 3, 40, 72)  # larger than a tile: each head cuts tiles of its own
        (found,) = together(image, samples(1, (40, 72)), "predict")
        (expected,) = alone(image, samples(1, (40, 72)), "predict")
    assert found.layers.keys() == {0, 2}
    torch.testing.assert_close(found.layers[2].pred_depth.data, expected.pred_depth.data)
    assert not torch.equal(found.layers[0].pred_depth.data, expected.pred_depth.data)


def test_each_input_is_encoded_once_and_then_forgotten():
    together, _ = probes_and_alone()
    calls = []
    together.encoder.register_forward_hook(lambda module, given, output: calls.append(tuple(given[0].shape)))
    together(torch.randn(2, 3, 32, 32), samples(2, (32, 32)), "loss")
    assert calls == [(2, 3, 32, 32)]
    calls.clear()
    together.eval()(torch.randn(1, 3, 40, 72), samples(1, (40, 72)), "predict")
    one = MODELS.build(MODEL)
    tiles = []
    one.backbone.register_forward_hook(lambda module, given, output: tiles.append(1))
    one.eval()(torch.randn(1, 3, 40, 72), samples(1, (40, 72)), "predict")
    assert len(calls) == len(tiles) > 1
    assert not together.shared._known


@pytest.mark.parametrize("change", [{"frozen": False}, {"frozen": 2}])
def test_an_encoder_that_is_trained_is_refused(change):
    with pytest.raises(ConfigError, match="frozen: true"):
        LayerProbes({**MODEL, "backbone": {**MODEL["backbone"], **change}}, [0])


def test_every_layer_is_judged_by_its_own_metric():
    metric = PerLayerMetric({"type": "DepthErrorMetric", "depth_range": [0.5, 12]}, [0, 1])
    metric.dataset_meta = {"classes": ()}
    target = samples(1, (8, 8))[0]
    predictions = {}
    for layer, error in ((0, 0.0), (1, 1.0)):
        predictions[layer] = target.clone()
        predictions[layer].set_field(PixelData(data=target.gt_depth.data + error), "pred_depth", dtype=PixelData)
        predictions[layer].set_metainfo({"depth_is_metric": True})
    metric.process(None, [{"layers": predictions}])
    values = metric.evaluate(1)
    assert values["layer0/depth/rmse"] == 0
    assert values["layer1/depth/rmse"] == pytest.approx(1, abs=1e-5)
    assert METRICS.get("PerLayerMetric") is PerLayerMetric
