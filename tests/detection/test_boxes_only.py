"""Mask R-CNN without its mask head: the boxes of the detector with one, and data without masks is enough."""

import copy

import pytest
import torch


@pytest.fixture
def both(make_model, settings):
    """The detector with and without masks, of the same weights."""
    with_masks = make_model()
    without = make_model(roi_heads={**settings["roi_heads"], "masks": False})
    missing = without.load_state_dict(with_masks.state_dict(), strict=False)
    assert not missing.missing_keys and all("mask_head" in key for key in missing.unexpected_keys)
    return with_masks, without


def losses_of(model, scenes, collate):
    torch.manual_seed(0)  # proposals are sampled
    return model(**model.data_preprocessor(collate(copy.deepcopy(scenes)), training=True), mode="loss")


def test_all_losses_but_that_of_the_masks_are_the_same(both, make_scene, collate):
    scenes = [make_scene(0), make_scene(1)]
    expected = losses_of(both[0], scenes, collate)
    for scene in scenes:
        del scene["data_samples"].gt_instances.masks  # and data without masks is enough
    found = losses_of(both[1], scenes, collate)
    assert expected.keys() - found.keys() == {"loss_mask"}
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_the_boxes_are_the_same(both, make_scene, collate):
    with torch.no_grad():
        expected, found = (
            [sample.pred_instances for sample in model.eval().val_step(collate([make_scene(0), make_scene(1)]))]
            for model in both
        )
    for one, other in zip(expected, found, strict=True):
        assert "masks" in one and "masks" not in other and len(other)
        for key in ("bboxes", "scores", "labels"):
            assert torch.equal(one[key], other[key])
