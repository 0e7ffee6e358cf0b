import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from pe_spatial.demo.scenes import CLASSES, draw_scene
from pe_spatial.visualization import (
    class_colors,
    class_names,
    colorize_depth,
    depth_picture,
    draw_boxes,
    draw_classes,
    draw_instances,
    draw_prediction,
    enlarge,
    overlay_masks,
    palette,
)


@pytest.fixture
def scene():
    return draw_scene(3, (96, 128))


@pytest.fixture
def image(scene):
    return torch.from_numpy(scene.image).permute(2, 0, 1)


def instances_of(scene, **more):
    return InstanceData(
        bboxes=torch.from_numpy(scene.boxes),
        labels=torch.from_numpy(scene.labels),
        masks=torch.from_numpy(scene.masks),
        **more,
    )


# --- colors ----------------------------------------------------------------------------------------------------------
def test_colors_are_distinct_and_do_not_depend_on_how_many_there_are():
    colors = palette(256)
    assert colors.shape == (256, 3)
    assert colors.dtype == torch.uint8
    assert colors[0].tolist() == [0, 0, 0]
    assert len({tuple(color) for color in colors.tolist()}) == 256
    assert torch.equal(palette(20), colors[:20])
    distances = torch.cdist(colors[:12].float(), colors[:12].float()) + 1e6 * torch.eye(12)
    assert distances.min() > 40


# --- masks and boxes --------------------------------------------------------------------------------------------------
def test_only_the_pixels_of_a_mask_change(image, scene):
    before = image.clone()
    masks = torch.from_numpy(scene.masks)
    drawn = overlay_masks(image, masks)
    changed = (drawn != image).any(0)
    assert torch.equal(image, before)
    assert not changed[~masks.any(0)].any()
    assert changed[masks.any(0)].float().mean() > 0.95


def test_ids_and_masks_are_drawn_alike(image, scene):
    assert torch.equal(
        overlay_masks(image, torch.from_numpy(scene.ids)), overlay_masks(image, torch.from_numpy(scene.masks))
    )
    assert torch.equal(overlay_masks(image, torch.zeros(0, 96, 128, dtype=torch.bool)), image)


def test_full_and_no_opacity(image):
    mask = torch.zeros(1, 96, 128, dtype=torch.bool)
    mask[0, 20:60, 30:90] = True
    solid = overlay_masks(image, mask, colors=[4], opacity=1)
    assert (solid[:, mask[0]] == palette()[5][:, None]).all()
    outline = (overlay_masks(image, mask, opacity=0) != image).any(0)
    assert not outline[21:59, 31:89].any()
    assert outline.sum() > 180
    edge = torch.zeros(1, 96, 128, dtype=torch.bool)
    edge[0, :, :50] = True  # reaches three edges of the image: only its open side has an outline
    assert not (overlay_masks(image, edge, opacity=0) != image).any(0)[:, :49].any()


def test_masks_of_another_size_are_refused(image):
    with pytest.raises(ValueError, match=r"masks of \(48, 64\).*image of \(96, 128\)"):
        overlay_masks(image, torch.zeros(1, 48, 64, dtype=torch.bool))


def test_box_edges_lie_inside_the_box():
    blank = torch.zeros(3, 40, 60, dtype=torch.uint8)
    drawn = draw_boxes(blank, torch.tensor([[10.0, 5, 30, 25]])).any(0)
    rows, columns = drawn.nonzero().T
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (10, 5, 30, 25)
    assert not drawn[6:24, 11:29].any()
    assert torch.equal(draw_boxes(blank, torch.zeros(0, 4)), blank)


def test_degenerate_boxes_and_captions_beyond_the_edges_do_not_fail():
    blank = torch.zeros(3, 40, 60, dtype=torch.uint8)
    boxes = torch.tensor([[5.0, 5, 5, 5], [-20, -9, 3, 4], [55, 38, 90, 70]])
    drawn = draw_boxes(blank, boxes, ["a", "a long caption on a small image", "c"])
    assert drawn.shape == blank.shape
    with pytest.raises(ValueError, match="zip"):
        draw_boxes(blank, boxes, ["a"])


def test_small_images_are_enlarged_by_a_whole_factor(image):
    large, factor = enlarge(image)
    assert factor == 5
    assert large.shape == (3, 480, 640)
    restored = torch.nn.functional.avg_pool2d(large.float(), factor)
    assert (restored - image).abs().mean() < 2
    assert enlarge(large)[1] == 1


def test_instances_below_the_threshold_are_not_drawn(image, scene):
    scored = instances_of(scene, scores=torch.full((len(scene.labels),), 0.4))
    assert torch.equal(draw_instances(image, scored, CLASSES, threshold=0.5), enlarge(image)[0])
    assert not torch.equal(draw_instances(image, scored, CLASSES, threshold=0.3), enlarge(image)[0])
    assert torch.equal(draw_instances(image, scored[:0], CLASSES), enlarge(image)[0])


def test_annotations_without_scores_or_masks_are_drawn(image, scene):
    annotations = InstanceData(bboxes=torch.from_numpy(scene.boxes), labels=torch.from_numpy(scene.labels))
    assert draw_instances(image, annotations, CLASSES).shape == (3, 480, 640)
    with pytest.raises(ValueError, match=r"label \d has no name among 0 classes"):
        draw_instances(image, annotations, ())


# --- depth ------------------------------------------------------------------------------------------------------------
def test_near_is_light_far_is_dark_and_missing_is_black():
    depth = torch.linspace(1, 9, 50).repeat(4, 1)
    depth[0, 0] = 0
    colors = colorize_depth(depth, near=1, far=9)
    luminance = colors.float().mean(0)
    assert colors.shape == (3, 4, 50)
    assert colors[:, 0, 0].tolist() == [0, 0, 0]
    assert (luminance[1].diff() < 0).all()
    assert torch.equal(colors, colorize_depth(depth[None], near=1, far=9))


def test_the_range_is_that_of_the_measurements_unless_given():
    depth = torch.linspace(2, 4, 1000).reshape(20, 50)
    quantiles = depth.flatten().sort().values
    by_hand = colorize_depth(depth, near=float(quantiles[20]), far=float(quantiles[979]))
    assert torch.equal(colorize_depth(depth), by_hand)
    assert torch.equal(colorize_depth(depth, 0.5, 0.6), colorize_depth(torch.full_like(depth, 9), 0.5, 0.6))
    assert not colorize_depth(torch.zeros(5, 6)).any()
    assert colorize_depth(torch.full((5, 6), 3.0)).any()


# --- classes ----------------------------------------------------------------------------------------------------------
def test_classes_tint_what_is_theirs(image):
    labels = torch.full(image.shape[-2:], 255)
    labels[20:60, 30:90] = 1
    colors = [[255, 0, 0], [0, 0, 255]]
    drawn = draw_classes(image, labels, ["a", "b"], colors)
    large, factor = enlarge(image)
    assert drawn.dtype == torch.uint8 and drawn.shape[1] == 96 * factor
    picture = drawn[:, :, : large.shape[2]]
    assert torch.equal(picture[:, : 18 * factor], large[:, : 18 * factor])  # no label, no tint
    inside = (slice(None), slice(25 * factor, 55 * factor), slice(35 * factor, 85 * factor))
    expected = (large[inside].float() + torch.tensor([0.0, 0.0, 255.0])[:, None, None]) / 2
    assert (picture[inside].float() - expected).abs().max() <= 1


def test_large_images_are_downsampled_and_the_legend_keeps_its_width():
    image, labels = torch.zeros(3, 1200, 1000, dtype=torch.uint8), torch.zeros(1200, 1000, dtype=torch.uint8)
    few = draw_classes(image, labels, ["a", "a long name"], [[9, 9, 9], [1, 2, 3]], longest=600)
    many = draw_classes(image, labels + torch.eye(1200, 1000, dtype=torch.uint8), ["a", "a long name"], [[9, 9, 9]] * 2)
    assert few.shape[1] == 600
    width = many.shape[2] - 1000
    assert draw_classes(image, labels, ["a", "a long name"], [[9, 9, 9]] * 2).shape[2] == 1000 + width


# --- predictions ------------------------------------------------------------------------------------------------------
def test_every_kind_of_prediction_has_its_picture(image, scene):
    found = instances_of(scene, scores=torch.full((len(scene.labels),), 0.7))
    instances = BaseDataElement(pred_instances=found)
    metainfo = {"classes": CLASSES}
    assert torch.equal(draw_prediction(image, instances, metainfo), draw_instances(image, found, CLASSES))
    assert torch.equal(draw_prediction(image, instances, metainfo, 0.8), enlarge(image)[0])

    labels = torch.from_numpy(scene.ids).long()
    names = class_names({}, labels)
    colors = class_colors(names)
    classes = BaseDataElement(pred_sem_seg=PixelData(data=labels[None]))
    assert torch.equal(draw_prediction(image, classes, {}), draw_classes(image, labels, names, colors))
    chosen = [[9, 8, 7]] * len(names)
    expected = draw_classes(image, labels, names, chosen)
    assert torch.equal(draw_prediction(image, classes, {"palette": chosen}), expected)

    numbers = [int(n) for n in labels.unique() if n]
    segments = [{"id": n, "label": 1} for n in numbers]
    panoptic = BaseDataElement(
        metainfo={"segments": segments}, pred_panoptic=PixelData(data=labels[None]), pred_instances=found
    )
    expected = draw_classes(
        image, torch.where(labels > 0, 1, -1), CLASSES, class_colors(CLASSES), labels, numbered=numbers
    )
    assert torch.equal(draw_prediction(image, panoptic, metainfo), expected)


def test_depth_stands_beside_the_image(image, scene):
    depth = torch.from_numpy(scene.depth)[None]
    for metric in (True, False):
        sample = BaseDataElement(metainfo={"depth_is_metric": metric}, pred_depth=PixelData(data=depth))
        drawn = draw_prediction(image, sample, {})
        assert torch.equal(drawn[:, :, :640], enlarge(image)[0])
        assert torch.equal(drawn[:, :, 640:], depth_picture(depth, is_metric=metric))


def test_depth_beside_a_downsampled_class_map_has_its_height():
    size = (2100, 600)
    sample = BaseDataElement(
        pred_sem_seg=PixelData(data=torch.zeros(1, *size, dtype=torch.uint8)),
        pred_depth=PixelData(data=torch.ones(1, *size)),
    )
    assert draw_prediction(torch.zeros(3, *size, dtype=torch.uint8), sample, {}).shape[1] == 2100


def test_labels_without_a_name_get_one():
    assert class_names({"classes": ("cat",)}, torch.tensor([2, 0])) == ["cat", "class 1", "class 2"]
    assert class_names({}, torch.tensor([], dtype=torch.long)) == []
