"""Maps of large pictures by cells: equal to the enlarged maps, in the memory of what changes."""

import pytest
import torch
from mmengine.structures import BaseDataElement
from torch.nn import functional as F

from pe_spatial.data import boxes_of_masks, decode_masks, encode_masks
from pe_spatial.segmentation.cell_grid import CellGrid, corners
from pe_spatial.segmentation.mask_decoder.postprocess import Frame, instances_of, panoptic_of

SIZES = [
    ((16, 20), (300, 411)),
    ((9, 7), (500, 90)),
    ((120, 100), (301, 259)),
    ((1, 1), (40, 50)),
    ((40, 50), (64, 60)),
]


def smooth(seed, count, size):
    """Maps [count, h, w] with regions, and noise that makes ragged borders."""
    torch.manual_seed(seed)
    rough = 5 * torch.randn(1, count, *(max(side // 4, 1) for side in size))
    return F.interpolate(rough, size, mode="bilinear")[0] + 0.3 * torch.randn(count, *size)


def test_many_labels_are_as_right():
    maps = smooth(0, 300, (9, 7))
    found = CellGrid((9, 7), (50, 60)).labels(maps)
    assert found.dtype == torch.int32 and torch.equal(found.long(), enlarged(maps, (50, 60)).argmax(0))


def enlarged(maps, frame):
    return F.interpolate(maps[None], frame, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize(("cells", "frame"), SIZES)
@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_labels_are_those_of_the_enlarged_maps(cells, frame, count):
    maps = smooth(count, count, cells)
    found = CellGrid(cells, frame).labels(maps)
    assert found.dtype == torch.uint8
    assert torch.equal(found.long(), enlarged(maps, frame).argmax(0))


@pytest.mark.parametrize(("cells", "frame"), SIZES)
def test_values_are_those_of_the_enlarged_maps_and_cover_what_is_asked_for_once(cells, frame):
    maps, grid = smooth(0, 2, cells), CellGrid(cells, frame)
    expected, seen = enlarged(maps, frame), torch.zeros(frame, dtype=torch.int64)
    asked = torch.rand(cells) < 0.2
    for region, values in grid.values(maps, asked):
        torch.testing.assert_close(values, expected[(..., *region)], atol=2e-5, rtol=0)
        seen[region] += 1
    assert seen.max() <= 1 and (seen[grid.fill(asked)] == 1).all()
    assert torch.equal(grid.pixels_of_cells()[asked].sum(), grid.fill(asked).sum())


def test_pixels_of_a_cell_lie_between_its_corners():
    maps, grid = smooth(1, 1, (12, 10)), CellGrid((12, 10), (200, 333))
    low, high = corners(maps[0])
    values = enlarged(maps, grid.frame)[0]
    assert (values >= grid.fill(low) - 1e-5).all() and (values <= grid.fill(high) + 1e-5).all()


def test_most_of_a_picture_is_not_interpolated():
    maps, grid, pixels = smooth(2, 5, (32, 32)).round(), CellGrid((32, 32), (2000, 2000)), 0
    maps[0, :, :16] += 50
    maps[1, :, 16:] += 50

    class Watched(CellGrid):
        def interpolate(self, maps, rows, columns):
            nonlocal pixels
            pixels += (rows.stop - rows.start) * (columns.stop - columns.start)
            return super().interpolate(maps, rows, columns)

    found = Watched((32, 32), (2000, 2000)).labels(maps)
    assert torch.equal(found, grid.labels(maps)) and pixels < 0.05 * found.numel()


# --- objects and segments ---------------------------------------------------------------------------------------------
def frames(seen, original, padded):
    sample = BaseDataElement(metainfo={"img_shape": seen, "ori_shape": original})
    large, plain = Frame(sample, padded, large=1), Frame(sample, padded)
    assert large.sums is not None and plain.sums is None
    return large, plain


def queries(seed, count=12, classes=4):
    torch.manual_seed(seed)
    return smooth(seed, count, (14, 12)), 4 * torch.randn(count, classes + 1)


@pytest.mark.parametrize("seed", range(4))
def test_objects_of_a_large_picture_are_those_of_whole_masks(seed):
    logits, class_logits = queries(seed)
    logits[3] = -9  # an empty mask
    logits[4] = 9  # all of the picture
    logits.requires_grad_()  # as outside of `no_grad`
    found, expected = (
        instances_of(logits, class_logits, {0, 2}, frame, most=20) for frame in frames((50, 44), (401, 333), (56, 48))
    )
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-6, rtol=0)
    assert found.masks == expected.masks and torch.equal(found.labels, expected.labels)
    assert torch.equal(found.bboxes, expected.bboxes)
    assert torch.equal(found.bboxes, boxes_of_masks(decode_masks(found.masks)))


@pytest.mark.parametrize("seed", range(4))
def test_segments_of_a_large_picture_are_those_of_whole_maps(seed):
    logits, class_logits = queries(seed)
    class_logits[:, -1] = -5
    for least, fewest in ((0.0, 3), (0.5, 0)):
        (ids, segments), (expected, whole) = (
            panoptic_of(logits, class_logits, {0, 2}, frame, least_score=0.3, least_visible=least)
            for frame in frames((50, 44), (401, 333), (56, 48))
        )
        assert torch.equal(ids, expected) and segments == whole and len(segments) >= fewest


def test_masks_of_whole_pictures_are_the_definition():
    logits, class_logits = queries(7)
    _, plain = frames((50, 44), (401, 333), (56, 48))
    found = instances_of(logits, class_logits, {0, 2}, plain, most=24)
    inside = plain.resize(logits) > 0
    rles = encode_masks(inside)
    assert all(rle in rles for rle in found.masks) and len(found.masks) == 24


def test_nothing_takes_part_in_a_large_picture():
    large, _ = frames((50, 44), (401, 333), (56, 48))
    ids, segments = panoptic_of(torch.zeros(2, 14, 12), torch.tensor([[0.0, 9]] * 2), {0}, large)
    assert segments == [] and ids.shape == (401, 333) and not ids.any()
    found = instances_of(torch.full((2, 14, 12), -5.0), torch.zeros(2, 3), {0, 1}, large, most=4)
    assert len(found) == 0 and found.masks == [] and found.bboxes.shape == (0, 4)
