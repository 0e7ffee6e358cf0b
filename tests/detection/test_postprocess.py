import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import clip_boxes_to_image

from pe_spatial.data import decode_masks, encode_masks, mask_areas, place_columns
from pe_spatial.detection.mask_rcnn import postprocess
from pe_spatial.detection.mask_rcnn.postprocess import paste_masks, rescale
from pe_spatial.detection.mask_rcnn.roi_heads import Detections


def sample_whole_image(masks, boxes, size):
    """The same by torch's own sampler: the image's pixel centers in coordinates of the mask."""
    H, W = size
    x = (torch.arange(W) + 0.5 - boxes[:, None, 0]) / (boxes[:, 2] - boxes[:, 0])[:, None] * 2 - 1  # [N, W]
    y = (torch.arange(H) + 0.5 - boxes[:, None, 1]) / (boxes[:, 3] - boxes[:, 1])[:, None] * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, H, -1), y[:, :, None].expand(-1, -1, W)], dim=-1)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]


def test_pasting_equals_grid_sample(monkeypatch):
    torch.manual_seed(0)
    masks = torch.rand(12, 28, 28)
    corner = torch.rand(12, 2) * 50 - 10
    boxes = torch.cat([corner, corner + 0.5 + torch.rand(12, 2) * 60], dim=1)
    expected = sample_whole_image(masks, boxes, (60, 70))
    certain = (expected - 0.5).abs() > 1e-5
    for large in (2**26, 500, 0):
        monkeypatch.setattr(postprocess, "_LARGE", large)
        drawn = decode_masks(paste_masks(masks, boxes, (60, 70)))
        assert torch.equal(drawn[certain], (expected >= 0.5)[certain])


def paste_whole(masks, boxes, size):
    """Every mask at the size of the image at once, as it was before masks were RLEs."""

    def weights(start, end, pixels, cells):
        center = torch.arange(pixels, dtype=torch.float32) + 0.5
        position = (center - start[:, None]) / (end - start)[:, None] * cells - 0.5
        return (1 - (position[..., None] - torch.arange(cells, dtype=torch.float32)).abs()).clamp(min=0)

    rows = weights(boxes[:, 1], boxes[:, 3], size[0], masks.shape[1])
    columns = weights(boxes[:, 0], boxes[:, 2], size[1], masks.shape[2])
    return rows @ masks @ columns.transpose(1, 2) >= 0.5


@pytest.mark.parametrize("size", [(61, 83), (200, 150), (1, 400)])
def test_pasted_masks_are_those_of_the_whole_image_to_the_bit(size):
    torch.manual_seed(0)
    masks = torch.randn(60, 28, 28).mul(3).sigmoid()
    masks[:6] = 1  # up to the edge of the box, and half a cell beyond what it divides
    corner = torch.rand(60, 2) * torch.tensor([size[1], size[0]]) * 1.2 - 0.1 * min(size)
    boxes = torch.cat([corner, corner + 0.3 + torch.rand(60, 2) * torch.tensor([size[1], size[0]])], dim=1)
    boxes[:20] = clip_boxes_to_image(boxes[:20], size)
    boxes[:20, 2:] += 0.01  # area
    boxes[20] = torch.tensor([0, 0, size[1], size[0]])
    assert paste_masks(masks, boxes, size) == encode_masks(paste_whole(masks, boxes, size))


@pytest.mark.parametrize("cells", [1, 5, 28])
@pytest.mark.parametrize("size", [(61, 83), (700, 900), (1, 400), (300, 1)])
def test_large_masks_from_their_profiles_are_those_of_all_pixels(size, cells, monkeypatch):
    torch.manual_seed(cells)
    masks = torch.randn(30, cells, cells).mul(3).sigmoid()
    masks[:3], masks[3:6], masks[6] = 1, 0, 0.5
    corner = torch.rand(30, 2) * torch.tensor([size[1], size[0]]) * 1.2 - 0.1 * min(size)
    boxes = torch.cat([corner, corner + 0.3 + torch.rand(30, 2) * torch.tensor([size[1], size[0]])], dim=1)
    boxes[20] = torch.tensor([0, 0, size[1], size[0]])
    boxes[21] = torch.tensor([-1e4, -1e4, 1e4, 1e4])  # the picture is within one cell
    monkeypatch.setattr(postprocess, "_LARGE", 0)
    drawn = decode_masks(paste_masks(masks, boxes, size), size)
    values = sample_whole_image(masks, boxes, size)
    certain = (values - 0.5).abs() > 1e-3  # in a cell of thousands of pixels, the sampler's positions are this coarse
    assert torch.equal(drawn[certain], (values > 0.5)[certain]) and certain.float().mean() > 0.9


def test_the_pixels_of_a_large_mask_never_exist(monkeypatch):
    seen = []

    def place(strips, corner, size):
        seen.extend(strip.numel() for strip in strips)
        return place_columns([], corner, size)

    monkeypatch.setattr(postprocess, "place_columns", place)
    monkeypatch.setattr(postprocess, "_LARGE", 20_000)
    boxes = torch.tensor([[0.0, 0, 900, 700], [10, 10, 20, 20]]).repeat(5, 1)
    rles = paste_masks(torch.rand(10, 28, 28), boxes, (700, 900))
    assert max(seen) <= 20_000 and len(seen) == 5
    assert rles[0]["size"] == [700, 900] and mask_areas(rles)[0] > 100_000


def test_gradients_that_nobody_asked_for_do_not_stop_large_masks():
    masks, boxes = torch.rand(1, 28, 28), torch.tensor([[10.0, 10, 2000, 2000]])
    recorded = paste_masks(masks.clone().requires_grad_(), boxes.clone().requires_grad_(), (2400, 2300))
    assert recorded == paste_masks(masks, boxes, (2400, 2300))


def test_a_full_mask_is_its_box():
    drawn = decode_masks(paste_masks(torch.ones(1, 28, 28), torch.tensor([[10.0, 20, 40, 50]]), (64, 64)))
    expected = torch.zeros(1, 64, 64, dtype=torch.bool)
    expected[0, 20:50, 10:40] = True
    assert torch.equal(drawn, expected)


def test_pasting_is_single_precision_under_autocast():
    torch.manual_seed(0)
    masks, boxes = torch.rand(5, 28, 28), torch.tensor([[3.0, 5, 60, 50]]).expand(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = paste_masks(masks, boxes, (64, 64))
    assert drawn == paste_masks(masks, boxes, (64, 64))


def test_detections_arrive_in_the_original_frame():
    found = Detections(
        boxes=torch.tensor([[10.0, 20, 30, 40], [99.0, 0, 120, 10], [120, 0, 130, 10]]),
        scores=torch.tensor([0.9, 0.8, 0.7]),
        labels=torch.tensor([2, 1, 0]),
        masks=torch.ones(3, 28, 28),
    )
    result = rescale(found, image_size=(50, 100), original_size=(100, 400))
    # x is stretched by 4 and y by 2; the second box is cut at the border, the third is outside
    assert result.bboxes.tolist() == [[40, 40, 120, 80], [396, 0, 400, 20]]
    assert result.labels.tolist() == [2, 1]
    assert [rle["size"] for rle in result.masks] == [[100, 400]] * 2
    assert mask_areas(result.masks)[0] == 80 * 40


def test_nothing_found():
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 28, 28))
    assert rescale(empty, (10, 10), (20, 20)).masks == []
