"""Small objects in large pictures: a detector on overlapping windows, and one list of detections.

Every object is left to the view that sees it whole and largest. A detection is *clear* of a window if it keeps a
distance (an eighth of the overlap) from those of its borders that cut the picture. Then

* a detection that is clear of its own window counts;
* one that is not, but is clear of another window, was cut, or nearly: the other window sees all of it, and decides;
* one that is clear of no window is longer than three quarters of the overlap, a piece of a large object. It counts
  unless the whole picture, reduced to the size of a window, shows the object: a detection of the class that covers it;
* of the whole picture, the detections count that are clear of no window.

The rule asks where a box lies and not how it scores, so a cut object cannot win over the whole one by its score. What
neighbors both see whole is then one object to the suppression that all detectors use.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_area

from pe_spatial.common.errors import OptionError, require_positive
from pe_spatial.common.windows import Region, even_starts, regions
from pe_spatial.data import KeepRatioResize, boxes_of_masks, decode_masks, encode_masks, move_masks, place_masks
from pe_spatial.detection.nms import Suppression
from pe_spatial.detection.views import build_views, require_canvas

_CLEAR = 1 / 8  # of the overlap; the predicted border of a cut object lies some pixels before or behind the window's
_COVERED = 0.7  # of the area of a piece, by the detection of the object that it belongs to
_AS_SURE = 0.5  # times the score of the piece; a view that sees an object smaller is less sure of it


@MODELS.register_module()
class SlicedDetection:
    """What `model.slices` of a detector configures: it then reads every picture in windows, also in validation.

    The windows lie on the image that the pipeline gives, so a pipeline that resizes nothing keeps the scale of the
    picture. Memory follows the windows and the detections: masks are RLEs of the picture.

    Args:
        size: Side of a window in pixels. An image that is no larger is one window, and nothing is merged.
        overlap: Share of a window that neighbors have in common at least. Objects up to three quarters of the overlap
            are seen whole wherever they are.
        whole: Whether the detector also sees the whole image, its longer side reduced to `size`, for larger objects.
        merge: Settings of the `Suppression` that merges; hard, at an IoU of 0.5, unless they say otherwise.
        max_detections: Kept per image; None keeps all.
        batch_size: Windows at once.

    Raises:
        OptionError: A size or number below 1, or an overlap that is no share from 0 to 0.9.
    """

    def __init__(
        self,
        size: int,
        overlap: float = 0.2,
        whole: bool = True,
        merge: Mapping[str, Any] | None = None,
        max_detections: int | None = None,
        batch_size: int = 4,
    ) -> None:
        numbers = {"size": size, "batch_size": batch_size}
        numbers |= {} if max_detections is None else {"max_detections": max_detections}
        if any(type(number) is not int for number in numbers.values()):
            raise OptionError(f"slices: {numbers} must be whole numbers")
        require_positive(**{f"slices.{name}": number for name, number in numbers.items()})
        if not isinstance(overlap, int | float) or not 0 <= overlap <= 0.9:
            raise OptionError(f"slices.overlap {overlap} is not a share of a window; give a number from 0 to 0.9")
        self.size = size
        self.whole = whole
        self.merge: Suppression = MODELS.build({"type": "Suppression", "threshold": 0.5, **(merge or {})})
        self.max_detections = max_detections
        self.batch_size = batch_size
        self.overlap = overlap
        self.margin = overlap * size * _CLEAR

    def __call__(self, model: BaseModel, data: Mapping[str, Any]) -> list[BaseDataElement]:
        """Do the work of `model.test_step`.

        Args:
            model: A detector whose `predict` fills `pred_instances` in the original frame.
            data: A batch as it comes from the loader: `inputs`, uint8 images [3, h, w], and `data_samples`.

        Returns:
            The samples with the merged `pred_instances`, best first; `masks` are RLEs of the original image.
        """
        samples: list[BaseDataElement] = list(data["data_samples"])
        for image, sample in zip(data["inputs"], samples, strict=True):
            sample.pred_instances = self._detect(model, image, sample)
        return samples

    def _detect(self, model: BaseModel, image: Tensor, sample: BaseDataElement) -> InstanceData:
        """The detections of one image [3, h, w] in its original frame."""
        height, width = image.shape[1:]
        starts = [even_starts(side, self.size, self.overlap) for side in (height, width)]
        size = min(self.size, height), min(self.size, width)
        windows = [Window.of(region, sample, (height, width)) for region in regions(starts[0], starts[1], size)]
        found: list[InstanceData] = []
        for start in range(0, len(windows), self.batch_size):
            some = windows[start : start + self.batch_size]
            results = _run(model, [image[(..., *w.region)] for w in some], sample, [w.shape for w in some])
            found += [window.place(result) for window, result in zip(some, results, strict=True)]
        if len(windows) == 1:
            return found[0]
        scale = found[0].bboxes.new_tensor(windows[0].scale[::-1] * 2)
        kept, pieces = [], []
        for window, each in zip(windows, found, strict=True):
            own = clear_of([window.region], each.bboxes / scale, self.margin, (height, width))
            elsewhere = self._is_clear(each, windows, scale, (height, width))
            kept.append(each[own])
            pieces.append(each[~own & ~elsewhere])
        cut = InstanceData.cat(pieces)
        if self.whole:
            large = self._large(model, image, sample, windows, scale)
            kept += [large, cut[~belongs(cut, large)]]
        else:
            kept.append(cut)
        return self.merge.suppress(InstanceData.cat(kept), self.max_detections)

    def _is_clear(
        self, found: InstanceData, windows: Sequence["Window"], scale: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Whether detections are clear of some window, [N] bool."""
        return clear_of([window.region for window in windows], found.bboxes / scale, self.margin, size)

    def _large(
        self, model: BaseModel, image: Tensor, sample: BaseDataElement, windows: Sequence["Window"], scale: Tensor
    ) -> InstanceData:
        """What the whole image shows of the objects that no window sees whole."""
        small = KeepRatioResize(max_size=self.size)(tv_tensors.Image(image)).as_subclass(Tensor)
        shape = (small.shape[1], small.shape[2])
        found = _run(model, [small], sample, [shape])[0]
        height, width = sample.ori_shape[:2]
        found.bboxes = found.bboxes * found.bboxes.new_tensor([width / shape[1], height / shape[0]] * 2)
        found = found[~self._is_clear(found, windows, scale, (image.shape[1], image.shape[2]))]
        if "masks" in found:
            masks = found.pop("masks")
            found.masks = [_enlarge(mask, (height, width)) for mask in encode_masks(masks)]
        return found


class Window(NamedTuple):
    """A window of the image that the pipeline gives, and the part of the original image that it shows.

    Attributes:
        region: Rows and columns of the image.
        corner: (row, column) of the part's first pixel in the original image.
        shape: (h, w) of the part.
        scale: Pixels of the original image in one of the image, (vertically, horizontally).
        original: (H, W) of the original image.
    """

    region: Region
    corner: tuple[int, int]
    shape: tuple[int, int]
    scale: tuple[float, float]
    original: tuple[int, int]

    @classmethod
    def of(cls, region: Region, sample: BaseDataElement, size: tuple[int, int]) -> "Window":
        """The window of a region of an image (h, w) whose `sample` says what it was resized from."""
        original = (int(sample.ori_shape[0]), int(sample.ori_shape[1]))
        scale = (original[0] / size[0], original[1] / size[1])
        top, left = (round(part.start * factor) for part, factor in zip(region, scale, strict=True))
        bottom, right = (round(part.stop * factor) for part, factor in zip(region, scale, strict=True))
        return cls(region, (top, left), (max(bottom - top, 1), max(right - left, 1)), scale, original)

    def place(self, found: InstanceData) -> InstanceData:
        """Detections in the frame of the part, brought into that of the original image.

        Corners of parts are rounded to pixels, boxes are not.
        """
        rows, columns = self.region
        sides = (rows.stop - rows.start, columns.stop - columns.start)
        if self.shape != self.original:  # else what fits one window would be rounded
            to_window = [sides[1] / self.shape[1], sides[0] / self.shape[0]]
            boxes = found.bboxes * found.bboxes.new_tensor(to_window * 2)
            boxes = boxes + boxes.new_tensor([columns.start, rows.start] * 2)
            found.bboxes = boxes * boxes.new_tensor([self.scale[1], self.scale[0]] * 2)
        if "masks" in found:
            found.masks = move_masks(encode_masks(found.masks), self.corner, self.original)
        return found


def _run(
    model: BaseModel, images: Sequence[Tensor], sample: BaseDataElement, shapes: Sequence[tuple[int, int]]
) -> list[InstanceData]:
    """The detections of parts of an image, each in a frame of its own shape (h, w)."""
    samples = [
        BaseDataElement(metainfo={**sample.metainfo, "img_shape": tuple(image.shape[1:]), "ori_shape": shape})
        for image, shape in zip(images, shapes, strict=True)
    ]
    batch = model.data_preprocessor({"inputs": list(images), "data_samples": samples}, False)
    return [result.pred_instances for result in model(**batch, mode="predict")]


def clear_of(windows: Sequence[Region], boxes: Tensor, margin: float, size: tuple[int, int]) -> Tensor:
    """Whether boxes keep a distance from the borders of some window; borders of the image do not count.

    Args:
        windows: All combinations of some rows and some columns.
        boxes: [N, 4] xyxy in pixels of the image.
        margin: The distance in pixels.
        size: (H, W) of the image.

    Returns:
        [N] bool.
    """
    clear = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for axis, length in ((0, size[0]), (1, size[1])):
        parts = sorted({(window[axis].start, min(window[axis].stop, length)) for window in windows})
        first = boxes.new_tensor([start + margin if start > 0 else -torch.inf for start, _ in parts])
        last = boxes.new_tensor([stop - margin if stop < length else torch.inf for _, stop in parts])
        clear &= ((boxes[:, 1 - axis, None] >= first) & (boxes[:, 3 - axis, None] <= last)).any(1)
    return clear


def belongs(pieces: InstanceData, whole: InstanceData) -> Tensor:
    """Whether pieces are covered by a detection of their class that is about as sure, [P] bool."""
    if not len(whole):
        return torch.zeros(len(pieces), dtype=torch.bool, device=pieces.scores.device)
    corner = torch.maximum(pieces.bboxes[:, None, :2], whole.bboxes[:, :2])
    shared = (torch.minimum(pieces.bboxes[:, None, 2:], whole.bboxes[:, 2:]) - corner).clamp(min=0).prod(2)  # [P, W]
    covered = shared >= _COVERED * box_area(pieces.bboxes)[:, None]
    as_sure = whole.scores >= _AS_SURE * pieces.scores[:, None]
    return (covered & as_sure & (pieces.labels[:, None] == whole.labels)).any(1)


def _enlarge(rle: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The mask of a reduced image at the size (H, W) of the original; no more than its box is drawn."""
    mask = decode_masks([rle])[0]
    x1, y1, x2, y2 = boxes_of_masks(mask[None])[0].int().tolist()
    corners = ((y1, max(y2, y1 + 1)), (x1, max(x2, x1 + 1)))  # a pixel of an empty mask
    ends = [
        [-(-edge * new // old) for edge in edges] for edges, new, old in zip(corners, size, mask.shape, strict=True)
    ]
    rows, columns = (
        torch.arange(*end, device=mask.device) * old // new
        for end, new, old in zip(ends, size, mask.shape, strict=True)
    )
    return place_masks(mask[rows][None, :, columns], (ends[0][0], ends[1][0]), size)[0]


def build_slices(settings: Mapping[str, Any] | None, tta: Any, preprocessor: Any) -> SlicedDetection | None:  # noqa: ANN401
    """A detector's `SlicedDetection`, or None for no settings.

    Raises:
        OptionError: Impossible settings, test-time augmentation besides, or a window that does not fit the canvas of
            the detector's `preprocessor`.
    """
    if settings is None:
        return None
    if tta is not None:
        raise OptionError("model.slices and model.tta cannot be combined; set one of them to null")
    slices: SlicedDetection = build_views("SlicedDetection", "slices", settings)
    require_canvas(preprocessor, slices.size, f"slices.size is {slices.size}", "make it smaller")
    return slices
