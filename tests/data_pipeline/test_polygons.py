"""Masks as polygons: loading, every transform that moves them, and what becomes of them in a packed sample."""

import copy
import itertools
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose, pseudo_collate
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2.functional import _utils as kernels

from pe_spatial.alignment.teachers import InstanceMaskTeacher
from pe_spatial.common.errors import ConfigError, OptionError
from pe_spatial.data import (
    DensePreprocessor,
    FixedSizeCrop,
    LoadInstances,
    PackSample,
    Polygons,
    SanitizeInstances,
    encode_masks,
    to_bitmaps,
)
from pe_spatial.detection.deta.augmentation import ResizeOrCrop
from pe_spatial.doctor.sheet import draw_tile
from pe_spatial.segmentation.mask_decoder.targets import segments_of_sample

SIZE = (80, 100)
L_SHAPE = [10, 10, 40, 10, 40, 20, 20, 20, 20, 60, 10, 60]
TRIANGLES = [[50.5, 30.25, 90, 30.25, 70, 55], [60, 60, 80, 60, 70, 75.5]]


def record(*masks):
    instances = [{"bbox": [1, 1, 99, 79], "label": n, "mask": mask, "ignore": False} for n, mask in enumerate(masks)]
    image = tv_tensors.Image(torch.zeros(3, *SIZE, dtype=torch.uint8))
    return {"img": image, "img_path": "scene.png", "ori_shape": SIZE, "instances": instances}


def load(*masks, **options):
    return LoadInstances(mask_format="polygon", **options)(record(*masks))


def two_objects():
    return load([L_SHAPE], TRIANGLES)


def sent(batch):
    """As a worker of a loader sends it."""
    return pickle.loads(pickle.dumps(batch))  # noqa: S301 - of our own


def assert_same(ours, theirs, tolerance=0.0):
    assert ours.canvas_size == theirs.canvas_size
    for ring, other in zip(itertools.chain(*ours.outlines), itertools.chain(*theirs.outlines), strict=True):
        np.testing.assert_allclose(ring, other, rtol=0, atol=tolerance)


def covers(outline, points):
    """Which points [P, 2] lie in an odd number of turns of the rings: rays to the right."""
    inside = np.zeros(len(points), bool)
    for ring in outline:
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            crosses = (y1 > points[:, 1]) != (y2 > points[:, 1])
            if y1 != y2:
                inside ^= crosses & (points[:, 0] < x1 + (points[:, 1] - y1) * (x2 - x1) / (y2 - y1))
    return inside


def area(outline):
    return sum(abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2 for x, y in (ring.T for ring in outline))


def star(rng, corners=24):
    """A ring that does not cross itself, but bends in and out."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(4, 36, (corners, 1))
    return (40 + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)).ravel().tolist()


# --- loading ----------------------------------------------------------------------------------------------------------
def test_polygons_are_loaded_as_they_stand():
    sample = two_objects()
    masks = sample["masks"]
    assert isinstance(masks, Polygons) and masks.canvas_size == SIZE and len(masks) == 2
    assert [[ring.ravel().tolist() for ring in outline] for outline in masks.outlines] == [[L_SHAPE], TRIANGLES]
    assert masks.tolist() == [[10, 10, 40, 60], [50.5, 30.25, 90, 75.5]]
    assert len(load()["masks"]) == 0
    assert "masks" not in load([L_SHAPE], masks=False)


def test_an_rle_has_no_polygons():
    rle = encode_masks(torch.ones(1, *SIZE, dtype=torch.bool))[0]
    with pytest.raises(OptionError, match=r"scene.png: the mask of box \[1, 1, 99, 79\] is an RLE.*'bitmask'"):
        load([L_SHAPE], rle)
    crowded = record([L_SHAPE], rle)
    crowded["instances"][1]["ignore"] = True
    assert len(LoadInstances(mask_format="polygon")(crowded)["masks"]) == 1  # crowds are dropped, as in Detectron2
    with pytest.raises(OptionError, match="'bitmask'"):
        LoadInstances(mask_format="polygon", ignored="keep")(crowded)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize(
    "mask",
    [[], [[1, 1, 2, 2]], [[1, 1, 2, 2, 3, 3, 4]], [[1, 1, 5, 1, 5, float("nan")]], [["a"] * 6], L_SHAPE, None, 5],
)
def test_what_is_no_polygon(mask, mask_format):
    with pytest.raises(OptionError, match=r"scene.png: the mask of box \[1, 1, 99, 79\] cannot be decoded.*polygons"):
        LoadInstances(mask_format=mask_format)(record([L_SHAPE], mask))


def test_unknown_formats_are_refused():
    with pytest.raises(OptionError, match="mask_format 'polygons' is not one of bitmask, polygon"):
        LoadInstances(mask_format="polygons")


def test_pixels_of_polygons_are_those_of_bitmaps():
    bitmaps = LoadInstances()(record([L_SHAPE], TRIANGLES))["masks"]
    assert torch.equal(to_bitmaps(two_objects()["masks"]), bitmaps)
    emptied = F.crop(two_objects()["masks"], 0, 0, 25, 45)
    assert to_bitmaps(emptied).flatten(1).any(1).tolist() == [True, False]


# --- transforms -------------------------------------------------------------------------------------------------------
def test_flipping_twice_and_resizing_back():
    masks = two_objects()["masks"]
    for flip in (F.horizontal_flip, F.vertical_flip):
        assert not np.array_equal(flip(masks).outlines[0][0], masks.outlines[0][0])
        assert_same(flip(flip(masks)), masks)
    assert_same(F.resize(F.resize(masks, [177, 33]), list(SIZE)), masks, tolerance=1e-12)
    assert_same(F.crop(F.pad(masks, [3, 5, 7, 11]), 5, 3, *SIZE), masks, tolerance=1e-12)


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomHorizontalFlip(p=1),
        v2.RandomVerticalFlip(p=1),
        v2.Resize([33, 177]),
        v2.Resize(None, max_size=61),
        v2.RandomShortestSize([37, 53, 91], max_size=120),
        v2.ScaleJitter([64, 64], [0.1, 2.0]),
        v2.Pad([3, 5, 7, 11]),
        v2.RandomZoomOut(p=1),
        v2.ColorJitter(0.5),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_polygons_move_like_boxes(transform):
    sample = two_objects()
    sample["boxes"] = tv_tensors.wrap(sample["masks"].as_subclass(torch.Tensor), like=sample["boxes"])
    moved = transform(sample)
    assert isinstance(moved["masks"], Polygons)
    assert moved["masks"].canvas_size == moved["boxes"].canvas_size == tuple(moved["img"].shape[1:])
    torch.testing.assert_close(moved["masks"].as_subclass(torch.Tensor), moved["boxes"].as_subclass(torch.Tensor))


def test_a_crop_has_the_points_of_the_window():
    rng = np.random.default_rng(0)
    split = 0
    for number in range(40):
        masks = load([star(rng)], [star(rng, 6), L_SHAPE])["masks"]
        top, left, height, width = (int(value) for value in rng.integers([0, 0, 8, 8], [40, 50, 40, 50]))
        cropped = F.crop(masks, top, left, height, width)
        assert cropped.canvas_size == (height, width)
        points = rng.uniform([0, 0], [width, height], (500, 2))
        for before, after in zip(masks.outlines, cropped.outlines, strict=True):
            assert (covers(after, points) == covers(before, points + [left, top])).all(), number
            for ring in after:
                assert (ring >= 0).all() and (ring <= [width, height]).all()
            split += len(after) > len(before)
    assert split > 5


def test_pieces_of_an_object_have_its_area_together():
    rng = np.random.default_rng(1)
    for _ in range(20):
        masks = load([star(rng)])["masks"]
        rows, columns = [0, *sorted(rng.integers(1, 80, 2)), 80], [0, *sorted(rng.integers(1, 100, 2)), 100]
        pieces = [
            area(F.crop(masks, top, left, bottom - top, right - left).outlines[0])
            for top, bottom in itertools.pairwise(map(int, rows))
            for left, right in itertools.pairwise(map(int, columns))
        ]
        assert sum(pieces) == pytest.approx(area(masks.outlines[0]), rel=1e-9)


def test_a_crop_that_cuts_nothing_leaves_the_vertices():
    masks = two_objects()["masks"]
    assert_same(F.crop(masks, 0, 0, *SIZE), masks)


def test_the_way_around_a_corner_of_the_window_widens_no_box():
    frame = load([[5, 5, 95, 5, 95, 75, 80, 75, 80, 20, 5, 20]])["masks"]  # along the top and down the right
    cropped = F.crop(frame, 10, 0, 60, 85)
    assert cropped.tolist() == [[5, 0, 85, 60]]
    assert F.crop(frame, 30, 10, 40, 65).outlines == [[]]  # the window lies in the angle
    both_arms = F.crop(load([[0, 0, 40, 0, 40, 40, 30, 40, 30, 10, 10, 10, 10, 40, 0, 40]])["masks"], 20, 5, 15, 30)
    assert len(both_arms.outlines[0]) == 2  # a U without its bottom


def test_what_has_no_area_is_nothing():
    line, spike = [10, 10, 50, 10, 30, 10], [20, 20, 40, 20, 40, 70, 40, 30, 20, 30]
    cropped = F.crop(load([line], [spike])["masks"], 0, 0, *SIZE)
    assert cropped.outlines[0] == []
    assert cropped.tolist() == [[0, 0, 0, 0], [20, 20, 40, 30]]


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomRotation((5, 10)),
        v2.RandomAffine(5),
        v2.RandomPerspective(p=1),
        v2.ElasticTransform(sigma=1.0),
        v2.CenterCrop(20),
        v2.RandomResizedCrop(20),
        v2.Pad(4, padding_mode="reflect"),
        v2.Pad(-4),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_what_cannot_move_polygons_refuses_them(transform):
    sample = two_objects()
    del sample["boxes"]
    with pytest.raises(ConfigError, match="'bitmask' in LoadInstances"):
        transform(sample)


def test_no_transform_passes_polygons_by():
    """torchvision's transforms skip what has no kernel; all that move pixels must have one, in later versions too."""
    moving = {
        functional.__name__
        for functional, known in kernels._KERNEL_REGISTRY.items()
        if (tv_tensors.Mask in known or tv_tensors.BoundingBoxes in known) and Polygons not in known
    }
    assert moving <= {"get_size", "get_dimensions", "get_num_channels", "to_dtype", "clamp_bounding_boxes"}, moving


@pytest.mark.parametrize(
    "duplicate",
    [torch.Tensor.clone, copy.deepcopy, copy.copy, sent, lambda p: p.to("cpu").detach()],
)
def test_copies_keep_the_outlines(duplicate):
    masks = two_objects()["masks"]
    copied = duplicate(masks)
    assert isinstance(copied, Polygons) and torch.equal(copied.as_subclass(torch.Tensor), torch.Tensor(masks))
    assert_same(copied, masks)
    assert "rings=[1, 2], canvas_size=(80, 100)" in repr(copied)
    assert type(masks + 1) is type(masks[:1]) is torch.Tensor


def test_the_large_crop_of_deta_takes_polygons():
    torch.manual_seed(0)
    for _ in range(10):
        sample = two_objects()
        sample["boxes"] = tv_tensors.wrap(sample["masks"].as_subclass(torch.Tensor), like=sample["boxes"])
        moved = SanitizeInstances()(ResizeOrCrop(256, shortest=128)(sample))
        boxes, masks = (moved[key].as_subclass(torch.Tensor) for key in ("boxes", "masks"))
        assert len(boxes) == len(masks) == len(moved["labels"])
        assert (masks[:, :2] >= boxes[:, :2] - 1e-3).all() and (masks[:, 2:] <= boxes[:, 2:] + 1e-3).all()


# --- samples ----------------------------------------------------------------------------------------------------------
def test_boxes_are_fitted_and_emptied_objects_go():
    sample = FixedSizeCrop(SIZE)(two_objects())
    fitted = SanitizeInstances(fit_boxes=True)(sample)
    assert fitted["boxes"].tolist() == [[10, 10, 40, 60], [50.5, 30.25, 90, 75.5]]
    cropped = v2.functional.crop
    sample |= {key: cropped(sample[key], 0, 0, 25, 45) for key in ("img", "boxes", "masks")}
    fitted = SanitizeInstances(fit_boxes=True)(sample)
    assert fitted["labels"].tolist() == [0]
    assert fitted["boxes"].tolist() == fitted["masks"].tolist() == [[10, 10, 40, 25]]


def test_the_thinnest_box_of_detectron2_is_kept():
    sample = load([[10, 10, 50, 10, 50, 10.01, 10, 10.01]], [[10, 10, 50, 10, 50, 10.000001, 10, 10.000001]])
    assert len(SanitizeInstances(fit_boxes=True)(sample)["boxes"]) == 0
    assert SanitizeInstances(fit_boxes=True, min_size=1e-5)(sample)["labels"].tolist() == [0]


def test_a_packed_sample_travels():
    packed = PackSample()(two_objects())
    masks = packed["data_samples"].gt_instances.masks
    assert [len(outline) for outline in masks] == [1, 2] and masks[0][0].dtype == np.float64
    batch = sent(pseudo_collate([packed, PackSample()(load())]))
    moved = DensePreprocessor()(batch, training=True)["data_samples"]
    assert len(moved[1].gt_instances.masks) == 0
    for ring, other in zip(itertools.chain(*moved[0].gt_instances.masks), itertools.chain(*masks), strict=True):
        assert (ring == other).all()


def test_polygons_use_no_random_numbers():
    """So that a change of the format changes no crop."""
    steps = [
        {"type": "torchvision.transforms.v2.RandomHorizontalFlip"},
        {"type": "torchvision.transforms.v2.ScaleJitter", "target_size": [64, 64], "scale_range": [0.5, 2.0]},
        {"type": "FixedSizeCrop", "size": 50},
    ]
    torch.manual_seed(3)
    ours = Compose(steps)(two_objects())
    torch.manual_seed(3)
    theirs = Compose(steps)(LoadInstances()(record([L_SHAPE], TRIANGLES)))
    assert torch.equal(ours["boxes"], theirs["boxes"]) and ours["img"].shape == theirs["img"].shape
    assert (to_bitmaps(ours["masks"]) != theirs["masks"]).float().mean() < 0.03


# --- what needs pixels ------------------------------------------------------------------------------------------------
def test_who_needs_bitmaps_says_so():
    sample = PackSample()(two_objects())["data_samples"]
    with pytest.raises(ConfigError, match="scene.png: the mask decoder needs bitmaps.*'bitmask' in LoadInstances"):
        segments_of_sample(sample, SIZE, {0, 1})
    with pytest.raises(ConfigError, match="scene.png: InstanceMaskTeacher needs bitmaps"):
        InstanceMaskTeacher()(torch.zeros(1, 3, *SIZE), [sample], (5, 5))


def test_the_contact_sheet_draws_polygons():
    dataset = SimpleNamespace(get_data_info=lambda index: {"img_path": "scene.png"}, metainfo={"classes": ("a", "b")})
    bitmaps = LoadInstances()(record([L_SHAPE], TRIANGLES))
    tiles = [draw_tile(dataset, 0, sample, ()) for sample in (two_objects(), bitmaps)]
    assert torch.equal(*tiles)
