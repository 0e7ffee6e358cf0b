import copy

import pytest
import torch
from mmengine.structures import BaseDataElement

from pe_spatial.detection.mask_rcnn.boxes import Target
from pe_spatial.detection.mask_rcnn.mask_head import crop_masks

LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}


def losses_of(model, scenes, collate):
    data = model.data_preprocessor(collate(copy.deepcopy(scenes)), training=True)
    return model(**data, mode="loss")


def predict(model, scenes, collate):
    with torch.no_grad():
        return model.eval().val_step(collate(copy.deepcopy(scenes)))


@pytest.mark.parametrize("objects", [(2, 3), (0, 2), (0, 0)], ids=["full", "one empty", "all empty"])
def test_losses_are_finite_and_reach_every_parameter(make_model, make_scene, collate, objects):
    model = make_model()
    losses = losses_of(model, [make_scene(i, n) for i, n in enumerate(objects)], collate)
    assert set(losses) == LOSSES
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    if not any(objects):
        assert losses["loss_box_reg"] == losses["loss_mask"] == losses["loss_rpn_loc"] == 0


def test_no_proposals_at_all(make_model, make_scene, collate):
    model = make_model()
    empty = [torch.zeros(0, 4)]
    nothing = [Target(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0, 64, 64).bool())]
    features = model(model.data_preprocessor(collate([make_scene(0)]))["inputs"])
    losses = model.roi_heads.loss(features[:-1], empty, nothing)
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.roi_heads.parameters())
    found = model.roi_heads.predict(features[:-1], empty, [(64, 64)])
    assert len(found[0].boxes) == 0 and found[0].masks.shape == (0, 28, 28)


def test_an_object_without_area_is_left_out(make_model, make_scene, collate):
    model = make_model()
    scene = make_scene(0)
    scene["data_samples"].gt_instances.bboxes[0, 2] = scene["data_samples"].gt_instances.bboxes[0, 0]
    assert all(loss.isfinite() for loss in losses_of(model, [scene], collate).values())


def test_predictions_keep_the_contract(make_model, make_scene, collate):
    scenes = [make_scene(0, size=(48, 64), scale=3), make_scene(1, size=(64, 40))]
    for sample, size in zip(predict(make_model(), scenes, collate), [(144, 192), (64, 40)], strict=True):
        found = sample.pred_instances
        assert 0 < len(found) <= 10
        assert all(tuple(rle["size"]) == size for rle in found.masks) and len(found.masks) == len(found.bboxes)
        assert found.scores.diff().le(0).all()
        assert found.labels.dtype == torch.int64 and set(found.labels.tolist()) <= {0, 1, 2}
        assert found.bboxes[:, 2].max() <= size[1] and found.bboxes[:, 3].max() <= size[0]


def test_a_batch_is_its_images(make_model, make_scene, collate):
    model, scenes = make_model(), [make_scene(0), make_scene(1)]
    together = predict(model, scenes, collate)
    for scene, expected in zip(scenes, together, strict=True):
        alone = predict(model, [scene], collate)[0].pred_instances
        torch.testing.assert_close(alone.bboxes, expected.pred_instances.bboxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.scores, expected.pred_instances.scores)


def test_padding_of_the_batch_does_not_move_boxes(make_model, make_scene, collate):
    """A first image that is smaller than its batch must not decide the scale of crops."""
    model = make_model()
    strides = model.neck.strides
    predict(model, [make_scene(0, size=(32, 48)), make_scene(1)], collate)
    assert model.roi_heads.box_pooler.strides == strides[:-1]


def test_bf16_autocast(make_model, make_scene, collate):
    model = make_model()
    scenes = [make_scene(0), make_scene(1)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, scenes, collate)
        found = predict(model, scenes, collate)[0].pred_instances
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert found.bboxes.dtype == found.scores.dtype == torch.float32


def test_short_training_learns(make_model, make_scene, collate):
    """The box loss is left out: it grows at first, with the number of proposals that hit an object."""
    model = make_model()
    scenes = [make_scene(i, objects=1) for i in range(8)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for step in range(50):
        losses = losses_of(model, scenes[step % 2 :: 2], collate)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append([losses[name].item() for name in ("loss_rpn_cls", "loss_cls", "loss_mask")])
    before, after = torch.tensor(history[:1]).mean(0), torch.tensor(history[-6:]).mean(0)
    assert (after < 0.7 * before).all(), (before, after)


def test_number_of_classes_is_compared_with_the_data(make_model):
    model = make_model()
    model.bind_dataset({"classes": ("a", "b", "c")})
    with pytest.raises(ValueError, match=r"num_classes=3, the dataset has 4 classes \(a, b, c, d\)"):
        model.bind_dataset({"classes": ("a", "b", "c", "d")})


def test_federated_loss_takes_its_frequencies_from_the_data(make_model, make_scene, collate):
    model = make_model(roi_heads={"class_loss": {"type": "FederatedLoss"}})
    model.bind_dataset({"classes": ("a", "b", "c"), "image_counts": [4, 9, 1]})
    assert model.roi_heads.class_loss.weight.tolist() == [2, 3, 1]
    assert not any("weight" in key and "class_loss" in key for key in model.state_dict())
    assert losses_of(model, [make_scene(0)], collate)["loss_cls"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "num_classes is 0"),
        ({"rpn": {"in_channels": 256}}, "rpn.in_channels is 256, but the model sets 16"),
        (
            {"neck": {"type": "SimpleFeaturePyramid", "in_channels": 768}},
            "neck.in_channels is 768, but the model sets 32",
        ),
    ],
)
def test_contradictions_fail_at_construction(make_model, changes, message):
    with pytest.raises(ValueError, match=message):
        make_model(**changes)


def test_wrong_use_is_named(make_model):
    model, image = make_model(), torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match="needs data_samples"):
        model(image, mode="predict")
    with pytest.raises(ValueError, match="'train'"):
        model(image, [BaseDataElement(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64)})], mode="train")


def test_mask_targets_see_the_object_through_the_box():
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 10:30, 20:40] = True
    masks[1, :, 32:] = True
    boxes = torch.tensor([[20.0, 10, 40, 30], [22, 0, 42, 64]])
    targets = crop_masks(masks, torch.tensor([0, 1]), boxes, 28)
    assert targets[0].all()
    assert not targets[1, :, :14].any() and targets[1, :, 14:].all()
