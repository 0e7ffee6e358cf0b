import pytest
import torch

from pe_spatial.detection.mask_rcnn.pooler import RoIPooler

STRIDES = (4, 8, 16, 32)


def ramps(size, strides, images=1):
    """Maps whose two channels are the pixel coordinates of the cells' centers."""
    maps = []
    for stride in strides:
        center = (torch.arange(int(size / stride)) + 0.5) * stride
        y, x = torch.meshgrid(center, center, indexing="ij")
        maps.append(torch.stack([x, y]).expand(images, 2, *x.shape))
    return maps


@pytest.mark.parametrize("strides", [STRIDES, (3.5, 7, 14, 28)])
def test_crops_of_every_level_lie_where_the_box_lies(strides):
    boxes = torch.tensor([[100.0, 120, 130, 160], [80, 90, 240, 250], [60, 70, 340, 350], [40, 60, 400, 410]])
    pooler = RoIPooler(2, strides)
    assert pooler.levels(boxes).tolist() == [0, 1, 2, 2] if strides == STRIDES else [0, 1, 2, 3]
    crops = pooler(ramps(448, strides), [boxes])
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    torch.testing.assert_close(crops.mean(dim=(2, 3)), center, atol=1e-2, rtol=0)
    # samples of a 2x2 grid lie a quarter of the box left and right of the center
    spread = crops[:, 0, 0, 1] - crops[:, 0, 0, 0]
    torch.testing.assert_close(spread, (boxes[:, 2] - boxes[:, 0]) / 2, atol=1e-2, rtol=0)


def test_a_box_of_224_pixels_is_read_at_stride_16():
    def side(pixels):
        return torch.tensor([[0.0, 0.0, pixels, pixels]])

    pooler = RoIPooler(7, STRIDES)
    levels = [int(pooler.levels(side(s))) for s in (1, 111, 112, 223, 224, 447, 448, 5000)]
    assert levels == [0, 0, 1, 1, 2, 2, 3, 3]


def test_crops_keep_the_order_of_boxes_and_images():
    torch.manual_seed(0)
    features = [torch.randn(2, 3, int(256 / s), int(256 / s)) for s in STRIDES]
    boxes = [torch.tensor([[0.0, 0, 250, 250], [3, 4, 20, 30]]), torch.tensor([[9.0, 9, 150, 140]])]
    pooler = RoIPooler(7, STRIDES)
    together = pooler(features, boxes)
    alone = [pooler([f[i : i + 1] for f in features], [b[None]]) for i in range(2) for b in boxes[i]]
    torch.testing.assert_close(together, torch.cat(alone))


def test_without_boxes_the_maps_have_a_zero_gradient():
    features = [torch.randn(1, 3, 8, 8, requires_grad=True) for _ in STRIDES]
    crops = RoIPooler(7, STRIDES)(features, [torch.zeros(0, 4)])
    assert crops.shape == (0, 3, 7, 7)
    crops.sum().backward()
    assert all(f.grad is not None and not f.grad.any() for f in features)


def test_strides_that_do_not_double_are_refused():
    with pytest.raises(ValueError, match=r"strides \(4, 8, 32\) must double"):
        RoIPooler(7, (4, 8, 32))
