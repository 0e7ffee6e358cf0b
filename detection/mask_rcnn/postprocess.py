"""From the frame of the network's input to the frame of the photograph."""

import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from pe_spatial.detection.mask_rcnn.roi_heads import Detections

_MAX_PIXELS = 2**26  # of mask probabilities held at once: 256 MiB


def rescale(found: Detections, image_size: tuple[int, int], original_size: tuple[int, int]) -> InstanceData:
    """Bring detections into the original frame; those without area there are dropped.

    Args:
        found: Detections in pixels of the network's input.
        image_size: (H, W) of the image inside that input, without padding.
        original_size: (H, W) of the photograph.

    Returns:
        `bboxes` [N, 4], `scores` [N], `labels` [N] and, where there is a mask head, `masks` [N, H, W] bool.
    """
    (height, width), (original_height, original_width) = image_size, original_size
    ratio = found.boxes.new_tensor([original_width / width, original_height / height] * 2)
    boxes = clip_boxes_to_image(found.boxes * ratio, original_size)
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    instances = InstanceData(bboxes=boxes[keep], scores=found.scores[keep], labels=found.labels[keep])
    if found.masks is not None:
        instances.masks = paste_masks(found.masks[keep], boxes[keep], original_size)
    return instances


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Draw masks of boxes into the image.

    A pixel's value is the bilinear sample of the mask at the pixel's center, zero outside of the mask. The samples of
    a mask form a grid, so that they are two matrix products: rows · mask · columns.

    Args:
        masks: [N, M, M] probabilities.
        boxes: [N, 4] xyxy in pixels of the image, of positive area.
        size: (H, W) of the image.
        threshold: Smallest probability that is pasted.

    Returns:
        [N, H, W] bool.
    """
    height, width = size
    pasted = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    chunk = max(1, _MAX_PIXELS // max(1, height * width))
    with torch.autocast(masks.device.type, enabled=False):
        for start in range(0, len(masks), chunk):
            part, box = masks[start : start + chunk].float(), boxes[start : start + chunk].float()
            rows = _interpolation(box[:, 1], box[:, 3], height, part.shape[1])  # [n, H, M]
            columns = _interpolation(box[:, 0], box[:, 2], width, part.shape[2])  # [n, W, M]
            pasted[start : start + chunk] = rows @ part @ columns.transpose(1, 2) >= threshold
    return pasted


def _interpolation(start: Tensor, end: Tensor, pixels: int, cells: int) -> Tensor:
    """Weights [N, pixels, cells] of linear interpolation between cells that divide [start, end] equally."""
    center = torch.arange(pixels, device=start.device, dtype=torch.float32) + 0.5
    position = (center - start[:, None]) / (end - start)[:, None] * cells - 0.5  # [N, pixels], in cells
    cell = torch.arange(cells, device=start.device, dtype=torch.float32)
    return (1 - (position[..., None] - cell).abs()).clamp(min=0)
