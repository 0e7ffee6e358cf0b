import math

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, PixelData
from torch import nn
from torch.nn import functional as F

import pe_spatial.backbones  # noqa: F401 - registers PEBackbone
import pe_spatial.data  # noqa: F401 - registers DensePreprocessor
from pe_spatial.depth.heads import DPTDepthHead, LinearBinsHead
from pe_spatial.depth.metrics import DepthErrorMetric
from pe_spatial.depth.model import DepthModel

TINY = {"name": "tiny", "patch_size": 8, "width": 32, "depth": 4, "heads": 2, "mlp_ratio": 2, "image_size": 32}
LOSSES = [{"type": "ScaleInvariantLogLoss"}, {"type": "MultiScaleGradientLoss"}]


@MODELS.register_module()
class PixelBackbone(nn.Module):
    """Every pixel is its own map cell: what lies beside it, padding for instance, cannot matter."""

    channels, strides, patch_size = (3,), (1,), 1

    def forward(self, x):
        return (x,)


def model(kind="LinearBinsHead", layers=(-1,), backbone=None, cls_token=False, **options):
    torch.manual_seed(0)
    pe = {"type": "PEBackbone", "variant": {**TINY, "cls_token": cls_token}, "layers": list(layers)}
    width = {"channels": 16} if kind == "DPTDepthHead" else {}
    return DepthModel(
        **{
            "backbone": backbone or pe,
            "head": {"type": kind, "depth_range": [0.5, 12], **width},
            "losses": LOSSES,
            "data_preprocessor": {"type": "DensePreprocessor", "size_divisor": 8},
            **options,
        }
    ).eval()


def batch(*sizes, with_depth=True, **metainfo):
    generator = torch.Generator().manual_seed(1)
    data = {"inputs": [], "data_samples": []}
    for number, (height, width) in enumerate(sizes):
        sample = BaseDataElement(
            metainfo={
                "img_path": f"{number}.png",
                "ori_shape": (height, width),
                "img_shape": (height, width),
                **metainfo,
            }
        )
        if with_depth:
            depth = torch.rand(1, height, width, generator=generator) * 10 + 1
            depth[torch.rand(depth.shape, generator=generator) < 0.2] = 0
            sample.set_field(PixelData(data=depth), "gt_depth", dtype=PixelData)
        data["inputs"].append(torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8))
        data["data_samples"].append(sample)
    return data


# --- heads ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("head", "count"), [(LinearBinsHead, 1), (LinearBinsHead, 3), (DPTDepthHead, 1), (DPTDepthHead, 4)]
)
@pytest.mark.parametrize("size", [(5, 7), (4, 4), (1, 1)])
def test_head_contract(head, count, size):
    torch.manual_seed(0)
    channels = [12] * count
    small = {"channels": 16} if head is DPTDepthHead else {}
    module = head(in_channels=channels, depth_range=[0.5, 12], **small).eval()
    depth = module([100 * torch.randn(2, 12, *size) for _ in channels])
    assert depth.shape[:2] == (2, 1) and depth.dtype == torch.float32
    assert depth.min() >= 0.5 and depth.max() <= 12
    depth.mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_linear_bins_are_the_weighted_mean_of_uniform_centers():
    torch.manual_seed(0)
    head = LinearBinsHead([6], [1, 5], bins=9).eval()
    x = torch.randn(1, 6, 2, 3)
    logits = head.linear(x / math.sqrt(1 + head.norm.eps))  # fresh statistics: mean 0, variance 1
    for y in range(2):
        for column in range(3):
            weights = [max(v, 0) + 0.1 for v in logits[0, :, y, column].tolist()]
            centers = [1 + 4 * k / 8 for k in range(9)]
            expected = sum(w * c for w, c in zip(weights, centers, strict=True)) / sum(weights)
            assert head([x])[0, 0, y, column].item() == pytest.approx(expected, rel=1e-4)


def test_linear_bins_start_in_the_middle_and_reach_both_ends():
    head = LinearBinsHead([4], [2, 8], bins=16).eval()
    nn.init.zeros_(head.linear.weight)
    assert torch.allclose(head([torch.randn(1, 4, 3, 3)]), torch.tensor(5.0))
    for bin_index, end in ((0, 2), (15, 8)):
        nn.init.zeros_(head.linear.bias)
        head.linear.bias.data[bin_index] = 1e6
        assert torch.allclose(head([torch.randn(1, 4, 3, 3)]), torch.tensor(float(end)), atol=1e-3)


def test_dpt_with_one_map_is_dpt_with_four_equal_maps():
    torch.manual_seed(0)
    single = DPTDepthHead([8], [1, 9], channels=16).eval()
    four = DPTDepthHead([8] * 4, [1, 9], channels=16).eval()
    four.load_state_dict(single.state_dict())
    x = torch.randn(2, 8, 5, 6)
    assert torch.equal(single([x]), four([x] * 4))
    assert single([x]).shape == (2, 1, 80, 96)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DPTDepthHead([8, 8], [1, 9]), "2 maps, but DPT needs one or four"),
        (lambda: LinearBinsHead([8], [0, 9]), "0 < least < greatest"),
        (lambda: LinearBinsHead([8], [1, 9], bins=1), "bins 1"),
    ],
)
def test_heads_check_their_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# --- the model --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("head", "layers"), [("LinearBinsHead", (-1,)), ("DPTDepthHead", (-1,)), ("DPTDepthHead", (0, 1, 2, 3))]
)
@pytest.mark.parametrize("cls_token", [False, True])
def test_loss_and_prediction_of_both_heads(head, layers, cls_token):
    net = model(head, layers, cls_token=cls_token)
    data = net.data_preprocessor(batch((32, 40), (27, 33)), training=True)
    losses = net(**data, mode="loss")
    assert set(losses) == {"loss_silog", "loss_gradient"}
    sum(losses.values()).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.backbone.parameters())
    assert net(data["inputs"]).shape == (2, 1, 32, 40)
    first, second = net.test_step(batch((32, 40), (27, 33), ori_shape=(54, 66)))
    assert first.pred_depth.data.shape == second.pred_depth.data.shape == (1, 54, 66)
    assert first.depth_is_metric and first.depth_unit == "meters" and first.depth_range == (0.5, 12)


def test_pixels_beyond_the_range_do_not_train():
    net = model()
    data = net.data_preprocessor(batch((16, 16)), training=True)
    target = data["data_samples"][0].gt_depth.data
    expected = net(**data, mode="loss")
    for value in (0.4, 12.5, 80.0):
        target[target == 0] = value
        assert net(**data, mode="loss") == expected
        target[target == value] = 0
    target[:] = 80.0
    assert sum(net(**data, mode="loss").values()) == 0


def test_frozen_backbone_gets_no_gradient_and_keeps_its_mode():
    pe = {"type": "PEBackbone", "variant": {**TINY, "cls_token": False}, "frozen": True}
    net = model(backbone=pe).train()
    sum(net(**net.data_preprocessor(batch((16, 24)), training=True), mode="loss").values()).backward()
    assert all(p.grad is None for p in net.backbone.parameters())
    assert all(p.grad is not None for p in net.head.parameters())


@pytest.mark.parametrize("pad_to", [None, (48, 64), (64, 48)])
def test_scores_depend_neither_on_padding_nor_on_the_batch(pad_to):
    sizes = [(32, 40), (27, 33), (41, 20)]

    def scores(together, **padding):
        net = model(backbone={"type": "PixelBackbone"}, data_preprocessor={"type": "DensePreprocessor", **padding})
        data, metric = batch(*sizes), DepthErrorMetric([0.001, 20])
        for part in [range(3)] if together else [[0], [1], [2]]:
            samples = net.test_step({key: [values[n] for n in part] for key, values in data.items()})
            metric.process(None, [sample.to_dict() for sample in samples])
        return metric.evaluate(3)

    assert scores(True, pad_to=pad_to) == pytest.approx(scores(False), rel=1e-6)


def test_flip_test_makes_the_prediction_symmetric():
    image = torch.randn(1, 3, 16, 24)
    plain, flipped = model("DPTDepthHead"), model("DPTDepthHead", flip_test=True)
    assert torch.allclose(
        flipped._depth_of_mirrors(image), flipped._depth_of_mirrors(image.flip(-1)).flip(-1), atol=1e-6
    )
    symmetric = torch.cat([image, image.flip(-1)], dim=-1)
    assert not torch.allclose(plain(symmetric), plain(symmetric).flip(-1), atol=1e-6)
    data = batch((16, 24), with_depth=False)
    prepared = flipped.data_preprocessor(data)["inputs"]
    expected = (plain(prepared) + plain(prepared.flip(-1)).flip(-1)) / 2
    assert torch.allclose(flipped.test_step(data)[0].pred_depth.data, expected[0], atol=1e-6)


def test_tiling_of_a_pixelwise_model_changes_nothing():
    plain = model(backbone={"type": "PixelBackbone"})
    tiled = model(backbone={"type": "PixelBackbone"}, tiling={"tile": [16, 24], "overlap": 0.25})
    expected = plain.test_step(batch((50, 70), with_depth=False))[0].pred_depth.data
    assert torch.allclose(tiled.test_step(batch((50, 70), with_depth=False))[0].pred_depth.data, expected, rtol=1e-3)


def test_a_relative_model_says_so():
    net = model(metric=False, losses=[{"type": "ScaleInvariantLogLoss", "invariance": 1.0}])
    sample = net.test_step(batch((16, 16)))[0]
    assert not sample.depth_is_metric and sample.depth_unit == "relative"
    with pytest.raises(ValueError, match="relative depth, which cannot be compared with meters"):
        DepthErrorMetric([0.1, 10]).process(None, [sample.to_dict()])


@pytest.mark.parametrize(("head", "layers"), [("LinearBinsHead", (3,)), ("DPTDepthHead", (0, 1, 2, 3))])
def test_prediction_in_bfloat16_is_close(head, layers):
    net = model(head, layers)
    expected = net.test_step(batch((32, 40)))[0].pred_depth.data
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = net.test_step(batch((32, 40)))[0].pred_depth.data
    assert actual.dtype == torch.float32
    assert F.l1_loss(actual, expected) < 0.05


def test_bins_are_weighed_in_full_precision_under_autocast():
    head = LinearBinsHead([4], [1.0, 9.07]).eval()
    nn.init.zeros_(head.linear.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        depth = head([torch.randn(1, 4, 3, 3)])
    assert torch.allclose(depth, torch.tensor(5.035), atol=1e-4)  # bfloat16 has 5.03125 and 5.0625


# --- errors at construction -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"losses": [{"type": "MultiScaleGradientLoss"}]}, "no loss determines the scale.*set metric=False"),
        ({"losses": [{"type": "ScaleInvariantLogLoss", "invariance": 1.0}]}, "no loss determines the scale"),
        (
            {"tiling": {"tile": [20, 24]}},
            r"tile \(20, 24\) \(H, W\) is not a multiple of the patch size 8; use \(16, 24\)",
        ),
        ({"tiling": {"tile": [16, 24], "overlap": 0.9}}, "overlap 0.9"),
        ({"tiling": {"tiles": [16, 24]}}, "tiling has no option 'tiles'; did you mean 'tile'"),
        (
            {"head": {"type": "LinearBinsHead", "depth_range": [1, 2], "in_channels": [64]}},
            r"head.in_channels is \[64\], but the model sets \[32\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)


def test_modes_are_checked():
    with pytest.raises(ValueError, match="mode='logits'"):
        model()(torch.zeros(1, 3, 8, 8), mode="logits")
    with pytest.raises(ValueError, match="needs data_samples"):
        model()(torch.zeros(1, 3, 8, 8), mode="loss")
