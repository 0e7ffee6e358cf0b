"""The official DETA on known weights and known pictures; `tests/data/deta*` holds its numbers."""

import json

import numpy as np
import pytest
import torch
from deta_golden import SIZES, official_weights, pictures
from golden_rule import DATA, ENCODER
from mmengine.structures import BaseDataElement, InstanceData
from torchvision.ops import box_convert

from pe_spatial.detection.deta import DETA
from pe_spatial.detection.deta.conversion import from_authors


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "deta.npz")


@pytest.fixture(scope="module")
def samples():
    """Original sizes and objects; the objects' boxes in pixels of the input, as a dataset gives them."""
    targets = np.load(DATA / "deta_targets.npz")
    result = []
    for i, (height, width) in enumerate(SIZES):
        original = targets[f"{i}/orig_size"].tolist()
        sample = BaseDataElement(metainfo={"img_shape": (height, width), "ori_shape": tuple(original)})
        boxes = torch.from_numpy(targets[f"{i}/boxes"]) * torch.tensor([width, height, width, height])
        sample.gt_instances = InstanceData(
            bboxes=box_convert(boxes, "cxcywh", "xyxy"), labels=torch.from_numpy(targets[f"{i}/labels"])
        )
        result.append(sample)
    return result


@pytest.fixture(scope="module")
def model():
    built = DETA(
        num_classes=91,
        backbone={
            "type": "PEBackbone",
            "variant": ENCODER,
            "window": 8,
            "global_blocks": (1, 3),
            "rope": 16,  # not the pretraining grid's 8: what the released weights were trained with
            "pos_embed": "tile",
        },
        neck={"type": "DetaPyramid"},
        transformer={"num_queries": 100, "encoder_layers": 2, "decoder_layers": 2, "layer": {"ffn_channels": 128}},
        loss_weights=(1, 1, 1),
    )
    built.load_state_dict(from_authors(official_weights())[0], strict=True)
    return built.eval()


@pytest.fixture(scope="module")
def predictions(model, samples):
    with torch.no_grad():
        return model(pictures(), samples, mode="tensor")


def close(found, expected, tolerance):
    np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)


def test_features(model, golden):
    with torch.no_grad():
        maps = model.neck.pyramid(model.backbone(pictures()))
    for level, found in enumerate(maps):
        close(found, golden[f"features/{level}"], 1e-5)


def test_what_the_encoder_proposes(predictions, golden):
    close(predictions.encoder.logits, golden["encoder/pred_logits"], 1e-4)
    close(predictions.encoder.boxes, golden["encoder/pred_boxes"], 1e-5)
    close(predictions.encoder.references, golden["encoder/anchors"], 1e-5)


def test_which_tokens_become_queries(predictions, golden):
    close(predictions.layers[0].references, golden["init_reference"], 1e-5)


@pytest.mark.parametrize(("layer", "prefix"), [(0, "aux0/"), (1, "")])
def test_what_every_decoder_layer_says(predictions, golden, layer, prefix):
    close(predictions.layers[layer].logits, golden[f"{prefix}pred_logits"], 1e-4)
    close(predictions.layers[layer].boxes, golden[f"{prefix}pred_boxes"], 1e-5)


def test_detections_in_the_original_frame(model, samples, golden):
    sizes = [(400, 457), (512, 384)]
    asked = [
        BaseDataElement(metainfo={"img_shape": s.img_shape, "ori_shape": size})
        for s, size in zip(samples, sizes, strict=True)
    ]
    with torch.no_grad():
        found = [sample.pred_instances for sample in model(pictures(), asked, mode="predict")]
    for i, instances in enumerate(found):
        close(instances.scores, golden[f"post{i}/scores"], 1e-4)
        np.testing.assert_array_equal(instances.labels.numpy(), golden[f"post{i}/labels"])
        np.testing.assert_allclose(instances.bboxes.numpy(), golden[f"post{i}/boxes"], atol=1e-5 * max(sizes[i]))


def test_losses(model, samples):
    expected = json.loads((DATA / "deta_losses.json").read_text())
    with torch.no_grad():
        found = model(pictures(), samples, mode="loss")
    theirs = {key: value for key, value in expected.items() if key.startswith("loss")}  # the others are for the log
    assert len(found) == len(theirs)
    for key, value in found.items():
        assert value.item() == pytest.approx(theirs[key.replace("class", "ce")], rel=1e-3), key
