"""Fine maps by a key of the config alone: the linear probe, depth, the tracker, the pictures of features."""

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, PixelData

import pe_spatial.depth
import pe_spatial.segmentation  # noqa: F401 - like that above, it registers its parts
from pe_spatial.common.errors import ConfigError, OptionError
from pe_spatial.tracking.model import VideoTracker
from pe_spatial.training.config import load_config

TINY = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 2, "mlp_ratio": 2, "cls_token": True}
FINE = {"type": "joint_bilateral", "stride": 2}


def backbone(**options):
    return {"type": "PEBackbone", "variant": TINY, "frozen": True, "upsampling": FINE, **options}


def segmenter(**options):
    head = {"type": "LinearHead"}
    return MODELS.build(
        {"type": "SemanticSegmentor", "num_classes": 3, "backbone": backbone(**options), "decode_head": head}
    )


def test_a_linear_probe_trains_and_predicts_on_fine_cells():
    model = segmenter(upsampling={"type": "learned", "stride": 2, "weights": None}, frozen=False)
    sample = BaseDataElement()
    sample.gt_sem_seg = PixelData(data=torch.randint(3, (1, 24, 40)))
    images = torch.randn(1, 3, 24, 40)
    model.loss(images, [sample])["decode.loss_ce"].backward()
    assert float(model.backbone.upsampler.see[-1].weight.grad.abs().sum()) > 0
    model.eval()
    assert model.score_map(images).shape == (1, 3, 12, 20)
    odd = torch.randn(1, 3, 29, 35)  # padded to whole patches, not to whole cells
    size = {"img_shape": (29, 35), "ori_shape": (29, 35)}
    (predicted,) = model.predict(odd, [BaseDataElement(metainfo=size)])
    assert predicted.pred_sem_seg.data.shape == (1, 29, 35)


def test_a_depth_model_takes_fine_maps_and_tiles_of_whole_patches():
    head, loss = {"type": "LinearBinsHead", "depth_range": (0.1, 10)}, {"type": "ScaleInvariantLogLoss"}
    settings = {"type": "DepthModel", "backbone": backbone(), "head": head, "losses": [loss]}
    assert MODELS.build(settings).eval().raw(torch.randn(1, 3, 24, 40)).shape == (1, 1, 24, 40)
    with pytest.raises(OptionError, match="multiple of the patch size 8"):
        MODELS.build({**settings, "tiling": {"tile": (20, 24)}})


def test_the_tracker_follows_on_fine_cells():
    frames = [torch.zeros(3, 32, 48, dtype=torch.uint8) for _ in range(2)]
    for place, frame in zip((9, 11), frames, strict=True):
        frame[:, 7:22, place : place + 14] = 250
    truth = frames[1][0] > 0

    def overlap(**options):
        torch.manual_seed(0)
        tracker = VideoTracker(backbone(**options), {"short_side": 32}, {"radius": 12})
        tracker.init(frames[0], mask=(frames[0][0] > 0).long())
        found = tracker.step(frames[1]) > 0
        return float((found & truth).sum() / (found | truth).sum())

    assert overlap() > overlap(upsampling="bilinear")


def test_the_mask_decoder_refuses_them():
    settings = {"type": "MaskDecoder", "num_classes": 3, "num_blocks": 1, "backbone": backbone(frozen=False)}
    with pytest.raises(OptionError, match="leave upsampling out"):
        MODELS.build(settings)


def test_the_key_passes_the_checks_of_a_config():
    config = load_config(
        "demo/seg_linear_tiny_random.yaml", ["model.backbone.upsampling={type: joint_bilateral, stride: 2}"]
    )
    assert MODELS.build({**config.model.backbone, "weights": None}).strides == (2,)
    for wrong, message in (("{type: joint, stride: 2}", "is not one of"), ("{type: learned, sigm: 2}", "'sigma'")):
        with pytest.raises(ConfigError, match=message):
            load_config("demo/seg_linear_tiny_random.yaml", [f"model.backbone.upsampling={wrong}"])
