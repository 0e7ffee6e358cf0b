"""Validation pictures show the annotation beside the prediction, for every task."""

import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from pe_spatial.demo.scenes import CLASSES, SEMANTIC_CLASSES, draw_scene
from pe_spatial.visualization import draw_compared, draw_labels, draw_prediction, enlarge
from pe_spatial.visualization.layout import row

META = {"classes": SEMANTIC_CLASSES, "is_thing": [name in CLASSES for name in SEMANTIC_CLASSES]}
SHIFT = len(SEMANTIC_CLASSES) - len(CLASSES)


@pytest.fixture(scope="module")
def scene():
    return draw_scene(5, (96, 128))


def case(task, scene):
    """Labels, and a prediction that equals them."""
    boxes, masks = torch.from_numpy(scene.boxes), torch.from_numpy(scene.masks)
    labels, ids = torch.from_numpy(scene.labels) + SHIFT, torch.from_numpy(scene.ids).long()
    semantic = torch.from_numpy(scene.semantic).long()
    if task in ("detection", "instances"):
        truth = {"boxes": boxes, "labels": labels} | ({"masks": masks} if task == "instances" else {})
        found = {"bboxes": boxes, "labels": labels, "scores": torch.ones(len(labels))}
        found |= {"masks": masks} if task == "instances" else {}
        return truth, BaseDataElement(pred_instances=InstanceData(**found))
    if task == "segmentation":
        return {"sem_seg": semantic[None]}, BaseDataElement(pred_sem_seg=PixelData(data=semantic[None]))
    segments = torch.where(ids > 0, ids, semantic + len(labels) + 1)
    rows = [{"id": int(n), "label": int(semantic[segments == n][0])} for n in segments.unique()]
    truth = {"sem_seg": semantic[None], "boxes": boxes, "labels": labels, "masks": masks}
    return truth, BaseDataElement(metainfo={"segments": rows}, pred_panoptic=PixelData(data=segments[None]))


@pytest.mark.parametrize("task", ["detection", "instances", "segmentation", "panoptic"])
def test_the_truth_stands_beside_the_prediction(task, scene):
    image = torch.from_numpy(scene.image).permute(2, 0, 1)
    truth, prediction = case(task, scene)
    annotation, predicted = draw_labels({"img": image, **truth}, META), draw_prediction(image, prediction, META)
    drawn = draw_compared(image, truth, prediction, META)
    assert torch.equal(drawn, row({"annotation": annotation, "prediction": predicted}))
    if task in ("segmentation", "panoptic"):  # what is equal looks equal: the captions of objects have no score
        assert torch.equal(annotation, predicted)
    assert torch.equal(draw_compared(image, {}, prediction, META), predicted)


def test_depth_has_one_scale_and_its_error(scene):
    image, depth = torch.from_numpy(scene.image).permute(2, 0, 1), torch.from_numpy(scene.depth)[None]
    sample = BaseDataElement(pred_depth=PixelData(data=1.1 * depth))
    drawn = draw_compared(image, {"depth": depth}, sample, {})
    width = enlarge(image)[0].shape[-1]
    assert drawn.shape[-1] > 4 * width  # image, measured, predicted, error
    equal = BaseDataElement(pred_depth=PixelData(data=depth))
    assert not torch.equal(draw_compared(image, {"depth": depth}, equal, {}), drawn)
    for unscored in ({"depth": 0 * depth}, {"depth": depth}):
        relative = BaseDataElement(
            metainfo={"depth_is_metric": not unscored["depth"].any()}, pred_depth=sample.pred_depth
        )
        assert draw_compared(image, unscored, relative, {}).shape[0] == 3


def test_pixels_without_a_label_are_dark_except_below_a_mask(scene):
    image = torch.from_numpy(scene.image).permute(2, 0, 1)
    truth, _ = case("panoptic", scene)
    truth["sem_seg"] = torch.full_like(truth["sem_seg"], 255)
    drawn = draw_labels({"img": image, **truth}, META)
    outside = ~torch.from_numpy(scene.masks).any(0)
    factor = enlarge(image)[1]
    shown = drawn[:, : 96 * factor : factor, : 128 * factor : factor].float().mean(0)
    assert shown[outside].mean() < 0.6 * image.float().mean(0)[outside].mean()
    assert shown[~outside].mean() > 0.6 * image.float().mean(0)[~outside].mean()
