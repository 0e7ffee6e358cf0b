"""PE in Detectron2: the numbers of the official detectors and of our Mask R-CNN. Most tests need a real Detectron2."""

import importlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement

from pe_spatial.backbones import PEBackbone, get_variant
from pe_spatial.commands.benchmark.fidelity import GOLDEN
from pe_spatial.commands.benchmark.fidelity.mask_rcnn import official_weights
from pe_spatial.commands.benchmark.fidelity.rule import ENCODER, picture
from pe_spatial.detection.conversion import from_detectron2
from pe_spatial.detection.mask_rcnn import MaskRCNN
from pe_spatial.training.optim import LayerDecayConstructor

CONFIGS = Path(__file__).parents[2] / "configs" / "detectron2"
NAME = "pe_spatial.detection.detectron2_adapter"
TINY = {"base": "PE-Spatial-T16-512", "width": 32, "depth": 4, "heads": 2, "mlp_ratio": 2, "image_size": 64}
TINY |= {"name": "tiny"}  # with a class token, which G's golden encoder lacks
WINDOWS = {"window": 2, "global_blocks": [1, 3], "rope": "interpolate", "pos_embed": "tile"}


@pytest.fixture(scope="module")
def adapter():
    pytest.importorskip("detectron2", reason="Detectron2 is not installed; docs/guides/detectron2.md says how to")
    return importlib.import_module(NAME)


@pytest.fixture(scope="module")
def zoo(adapter):
    return pytest.importorskip("detectron2.model_zoo", reason="detectron2.model_zoo needs setuptools < 81")


# --- Detectron2 that is not there -------------------------------------------------------------------------------------
@pytest.fixture
def import_afresh(monkeypatch):
    """Import the adapter with other modules in the place of Detectron2's."""

    def run(modules):
        for name in [NAME, *(name for name in sys.modules if name.partition(".")[0] == "detectron2")]:
            monkeypatch.delitem(sys.modules, name, raising=False)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        return importlib.import_module(NAME)

    return run


def test_a_missing_detectron2_is_named_with_its_remedy(import_afresh):
    with pytest.raises(ImportError, match=r"Detectron2 cannot be imported .*pip install .*git\+https"):
        import_afresh({"detectron2": None})


def test_an_old_detectron2_is_named_with_its_remedy(import_afresh):
    names = ("detectron2", "detectron2.config", "detectron2.layers", "detectron2.modeling")
    modules = {name: types.ModuleType(name) for name in (*names, "detectron2.modeling.backbone")}
    modules["detectron2"].__version__, modules["detectron2"].__path__ = "0.6", ["/somewhere"]
    contents = {"config": ("CfgNode", "LazyCall"), "layers": ("ShapeSpec",), "modeling": ("BACKBONE_REGISTRY",)}
    for module, attributes in {**contents, "modeling.backbone": ("Backbone",)}.items():
        for attribute in attributes:
            setattr(modules[f"detectron2.{module}"], attribute, type(attribute, (), {}))
    with pytest.raises(ImportError, match=r"Detectron2 0.6 in /somewhere is too old.*June 2022.*pip install"):
        import_afresh(modules)


# --- models -----------------------------------------------------------------------------------------------------------
def read_yaml(adapter, changes):
    from detectron2.config import get_cfg

    cfg = get_cfg()
    adapter.add_pe_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "mask_rcnn_pe_spatial_b_coco_detectron2.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.PE.WEIGHTS", None])
    for key, value in changes.items():
        setattr(cfg.MODEL.PE, key, value)
    return cfg


def build_yaml(adapter, encoder, **changes):
    from detectron2.config import CfgNode
    from detectron2.modeling import build_model

    fields = {key: value for key, value in encoder.items() if key != "base"}
    cfg = read_yaml(adapter, {"ENCODER": CfgNode(fields), "VARIANT": "PE-Spatial-T16-512", **changes})
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    return build_model(cfg).eval()


def build_lazy(zoo, encoder, square_pad):
    from detectron2.config import LazyConfig, instantiate

    config = LazyConfig.load(str(CONFIGS / "mask_rcnn_pe_spatial_b_coco_detectron2.py"))
    config.model.backbone.square_pad = square_pad
    body = config.model.backbone.net.body
    body.update({"variant": encoder, "weights": None, "window": WINDOWS["window"], "drop_path": 0.0})
    body.global_blocks = WINDOWS["global_blocks"]
    config.model.roi_heads.box_predictor.test_score_thresh = 0.0
    return instantiate(config.model).eval()


def build_ours(encoder, image_size, rpn=None, **windows):
    return MaskRCNN(
        num_classes=80,
        backbone={"type": "PEBackbone", "variant": encoder, **(WINDOWS | windows)},
        neck={"type": "SimpleFeaturePyramid"},
        rpn=rpn,
        roi_heads={"score_threshold": 0.0},
        data_preprocessor={
            "type": "DensePreprocessor",
            "mean": [127.0] * 3,
            "std": [127.0] * 3,
            "pad_to": [image_size] * 2,
        },
    ).eval()


@torch.no_grad()
def detect(model, image, size):
    """Boxes, scores, classes and masks of either model at the size (H, W) of the original."""
    if isinstance(model, MaskRCNN):
        sample = BaseDataElement(metainfo={"img_shape": image.shape[1:], "ori_shape": size})
        found = model.test_step({"inputs": [image], "data_samples": [sample]})[0].pred_instances
        return found.bboxes, found.scores, found.labels, found.masks
    found = model([{"image": image, "height": size[0], "width": size[1]}])[0]["instances"]
    return found.pred_boxes.tensor, found.scores, found.pred_classes, found.pred_masks


def assert_same_detections(found, expected):
    for (actual, wanted), tolerance in zip(zip(found[:3], expected[:3], strict=True), (0.05, 1e-4, 0), strict=True):
        torch.testing.assert_close(actual, wanted, atol=tolerance, rtol=0, check_dtype=False)
    assert (found[3] != expected[3]).sum(dim=(1, 2)).max() <= 3


@pytest.fixture(scope="module")
def golden_model(adapter):
    return build_yaml(adapter, ENCODER, WINDOW=8, GLOBAL_BLOCKS=[1, 3], DROP_PATH=0.0, SQUARE_PAD=256)


def test_state_dict_is_that_of_the_official_detector(golden_model):
    here = {key: value.shape for key, value in golden_model.state_dict().items()}
    assert here == {key: value.shape for key, value in official_weights(GOLDEN).items()}


def test_official_file_loads_with_detectron2s_checkpointer(golden_model, tmp_path):
    from detectron2.checkpoint import DetectionCheckpointer

    weights = official_weights(GOLDEN)
    rotary = {f"backbone.net.{name}.freqs_cos": torch.zeros(64, 16) for name in ("rope_win", "rope_glb")}
    torch.save({"model": {**weights, **rotary}}, tmp_path / "official.pth")
    with torch.no_grad():
        for parameter in golden_model.parameters():
            parameter.zero_()
    DetectionCheckpointer(golden_model).load(str(tmp_path / "official.pth"))
    for key, value in golden_model.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_same_weights_give_the_same_detections(golden_model):
    """Detectron2's Mask R-CNN on this backbone, the official detector (recorded) and ours."""
    golden_model.load_state_dict(official_weights(GOLDEN), strict=True)
    ours = build_ours(ENCODER, 256, rpn={"post_nms": (1000, 200)}, window=8)
    ours.load_state_dict(from_detectron2(golden_model.state_dict())[0], strict=True)
    golden_model.proposal_generator.post_nms_topk[False] = 200  # the heads are most of the work
    assert_same_detections(detect(golden_model, picture(), (400, 512)), detect(ours, picture(), (400, 512)))
    golden_model.proposal_generator.post_nms_topk[False] = 1000
    found = detect(golden_model, picture(), (400, 512))
    golden = np.load(GOLDEN / "maskrcnn_coco.npz")
    np.testing.assert_allclose(found[0].numpy(), golden["boxes"], atol=0.05)
    np.testing.assert_allclose(found[1].numpy(), golden["scores"], atol=1e-4)
    np.testing.assert_array_equal(found[2].numpy(), golden["classes"])


@pytest.fixture(scope="module")
def tiny_models(adapter, zoo):
    """Of the YAML file and of the LazyConfig file, with one set of weights, and the optimizer's settings."""
    torch.manual_seed(0)
    from_yaml = build_yaml(adapter, TINY, WINDOW=2, GLOBAL_BLOCKS=[1, 3], DROP_PATH=0.0, SQUARE_PAD=96)
    lazy = build_lazy(zoo, TINY, square_pad=96)
    lazy.load_state_dict(from_yaml.state_dict(), strict=True)
    for model in (from_yaml, lazy):  # the heads are most of the work
        model.proposal_generator.post_nms_topk = {True: 100, False: 30}
    return from_yaml, lazy


def test_the_examples_describe_one_model(tiny_models):
    image = torch.randint(0, 255, (3, 80, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    from_yaml, lazy = tiny_models
    assert torch.equal(from_yaml.pixel_mean, lazy.pixel_mean) and torch.equal(from_yaml.pixel_std, lazy.pixel_std)
    assert from_yaml.input_format == lazy.input_format == "RGB"
    found = detect(from_yaml, image, (80, 64))
    assert len(found[0])
    assert_same_detections(found, detect(lazy, image, (80, 64)))
    ours = build_ours(TINY, 96, rpn={"post_nms": (100, 30)})
    ours.load_state_dict(from_detectron2(from_yaml.state_dict(), class_token=True)[0], strict=True)
    assert_same_detections(found, detect(ours, image, (80, 64)))


def test_every_parameter_that_should_learns(tiny_models):
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    model = tiny_models[0].train()
    truth = Instances((64, 64))
    truth.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 48.0]]))
    truth.gt_classes = torch.tensor([3])
    truth.gt_masks = BitMasks(torch.ones(1, 64, 64, dtype=torch.bool))
    with EventStorage():
        losses = model([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "instances": truth}])
    sum(losses.values()).backward()
    silent = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not silent
    still = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert still == {"backbone.net.body.encoder.class_embedding"}
    model.eval().zero_grad()


def test_learning_rates_are_those_of_our_recipe(adapter, tiny_models):
    from detectron2.solver.build import get_default_optimizer_params

    model = tiny_models[0]
    factor = adapter.LayerDecay(TINY, 0.7)
    groups = get_default_optimizer_params(model, base_lr=1e-4, weight_decay=0.1, lr_factor_func=factor)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    theirs = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    ours = build_ours(TINY, 96)
    constructor = LayerDecayConstructor({"optimizer": {"type": "AdamW", "lr": 1e-4}}, {"layer_decay": 0.7})
    names = {id(parameter): name for name, parameter in ours.named_parameters()}
    expected = {names[id(p)]: group["lr"] for group in constructor.parameter_groups(ours) for p in group["params"]}
    encoder = {name.replace("backbone.net.body.", "backbone."): rate for name, rate in theirs.items()}
    assert {name: rate for name, rate in encoder.items() if ".encoder." in name} == pytest.approx(
        {name: rate for name, rate in expected.items() if ".encoder." in name}
    )
    assert {rate for name, rate in theirs.items() if ".net." not in name} == {1e-4}


# --- backbones --------------------------------------------------------------------------------------------------------
def test_pyramid_is_detectron2s_own(adapter):
    from detectron2.modeling import SimpleFeaturePyramid
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool

    torch.manual_seed(0)
    net = adapter.PE(PEBackbone(TINY, **WINDOWS))
    ours = adapter.PEFeaturePyramid(net, 16, square_pad=64).eval()
    scales = (4.0, 2.0, 1.0, 0.5)
    theirs = SimpleFeaturePyramid(net, "block3", 16, scales, LastLevelMaxPool(), square_pad=64).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert ours.output_shape() == theirs.output_shape()
    assert ours.padding_constraints["square_size"] == theirs.padding_constraints["square_size"]
    assert ours.size_divisibility == theirs.padding_constraints["size_divisiblity"]  # their spelling
    with torch.no_grad():
        image = torch.randn(2, 3, 64, 96)
        expected = theirs(image)
        for name, value in ours(image).items():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("windows", [{}, WINDOWS], ids=["global", "windows"])
def test_a_state_dict_comes_back(adapter, windows):
    """Alone and under a prefix; the class token is left out where, and only where, it has no effect."""
    torch.manual_seed(0)
    one, two = (torch.nn.ModuleDict({"net": adapter.PE(PEBackbone(TINY, **windows))}) for _ in range(2))
    tensors = one.state_dict()
    assert ("net.class_embedding" in tensors) == (not windows)
    assert not any("body" in key or "encoder" in key for key in tensors)
    two.load_state_dict(tensors, strict=True)
    image = torch.randn(1, 3, 64, 48)
    assert torch.equal(one["net"](image)["block3"], two["net"](image)["block3"])
    with pytest.raises(RuntimeError, match=r"conv1.weight"):
        two.load_state_dict({key: value for key, value in tensors.items() if "conv1" not in key}, strict=True)
    two["net"].load_state_dict(one["net"].state_dict(), strict=True)


def test_registered_backbone_gives_the_blocks_that_are_asked_for(adapter):
    from detectron2.config import CfgNode
    from detectron2.modeling import build_backbone

    changes = {"LAYERS": [1, -1], "WINDOW": None, "ROPE": "extrapolate", "GLOBAL_BLOCKS": []}
    cfg = read_yaml(adapter, {"ENCODER": CfgNode({k: v for k, v in TINY.items() if k != "base"}), **changes})
    cfg.MODEL.PE.VARIANT, cfg.MODEL.PE.FROZEN = TINY["base"], True
    cfg.MODEL.BACKBONE.NAME = "build_pe_backbone"
    backbone = build_backbone(cfg)
    assert {name: (s.channels, s.stride) for name, s in backbone.output_shape().items()} == {
        "block1": (32, 16),
        "block3": (32, 16),
    }
    assert [tuple(value.shape) for value in backbone(torch.randn(1, 3, 32, 48)).values()] == [(1, 32, 2, 3)] * 2
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    cfg.MODEL.PIXEL_MEAN = [0.0]
    with pytest.raises(ValueError, match="takes RGB images, not 1 channels"):
        build_backbone(cfg)


def test_errors_name_the_remedy(adapter):
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    fourteen = {**TINY, "patch_size": 14, "image_size": 56}
    with pytest.raises(ValueError, match="patches of 14 pixels: .* set patch_size=16"):
        adapter.PEFeaturePyramid(adapter.PE(PEBackbone(fourteen)))
    with pytest.raises(ValueError, match="square_pad 80 is not a multiple of 32"):
        adapter.PEFeaturePyramid(adapter.PE(PEBackbone(TINY)), square_pad=80)
    with pytest.raises(ValueError, match=r"decay 0 must be above 0"):
        adapter.LayerDecay(TINY, 0)
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_pe_backbone"
    with pytest.raises(KeyError, match=r"call add_pe_config\(cfg\) before"):
        build_backbone(cfg)
    assert get_variant(TINY).depth == 4
