"""What the detectors share: backbone and pyramid, classes that are compared with the data, test-time augmentation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.backbones.contract import build_backbone, with_statistics
from pe_spatial.common.errors import OptionError
from pe_spatial.common.graphs import Engine, Network, NetworkGraph
from pe_spatial.common.parts import ModalModel, build_part
from pe_spatial.detection.slicing import build_slices
from pe_spatial.detection.tta import build_tta
from pe_spatial.training.binding import check_class_count

_EXAMPLE = (10, 14)  # patches along the sides of an example; coarse maps of it have two cells at least


class Detector(ModalModel):
    """A backbone and a neck; subclasses add what finds objects on the neck's maps.

    Data samples have the metainfo `img_shape` and `ori_shape` (H, W). `loss` needs their `gt_instances` (`bboxes`
    [G, 4] xyxy in input pixels, `labels` [G] and, for masks, `masks`: bool [G, H, W] or G outlines); `predict` fills
    their `pred_instances`, in the original frame.

    Args:
        num_classes: K; labels are 0…K-1.
        backbone: Settings of a backbone with `channels` and `strides`; its only map feeds the neck.
        neck: Settings of the pyramid; `in_channels` and `stride` are those of the backbone.
        data_preprocessor: Settings of the preprocessor.
        tta: Settings of `MultiScaleFlip`; None predicts every image once.
        slices: Settings of `SlicedDetection`; None sees the image of the pipeline as one.

    Raises:
        OptionError: `num_classes` below 1, several maps of the backbone, or maps of the neck with different
            numbers of channels.
    """

    task = "detection"

    def __init__(
        self,
        num_classes: int,
        backbone: Mapping[str, Any],
        neck: Mapping[str, Any],
        data_preprocessor: Mapping[str, Any] | None,
        tta: Mapping[str, Any] | None,
        slices: Mapping[str, Any] | None,
    ) -> None:
        module = build_backbone(backbone, type(self).__name__, maps=1)
        super().__init__(with_statistics(data_preprocessor, module))
        if num_classes < 1:
            raise OptionError(f"num_classes is {num_classes}; it must be at least 1")
        self.num_classes = num_classes
        self._engine: Engine | None = None
        self.tta = build_tta(tta, self.data_preprocessor)
        self.slices = build_slices(slices, tta, self.data_preprocessor)
        self.backbone = module
        self.neck = build_part("neck", neck, in_channels=self.backbone.channels[-1], stride=self.backbone.strides[-1])
        if len(set(self.neck.channels)) != 1:
            raise OptionError(f"the neck's maps have {self.neck.channels} channels; a detector needs equal numbers")

    def test_step(self, data: Any) -> list[BaseDataElement]:
        """Predict a batch of the loader, with test-time augmentation if there is any; validation goes without."""
        return self.val_step(data) if self.tta is None else self.tta(self, data)

    def val_step(self, data: Any) -> list[BaseDataElement]:
        """Predict a batch of the loader, in slices if there are any."""
        return super().val_step(data) if self.slices is None else self.slices(self, data)

    def use_engine(self, run: Engine) -> None:
        """See `Exportable`."""
        self._engine = run

    def detector_graph(self, compute: Callable[..., Sequence[Tensor]], outputs: Sequence[str]) -> NetworkGraph:
        """A graph of `images` [B, 3, H, W] and `image_sizes`, float32 [B, 2]: (H, W) of each without its padding.

        Args:
            compute: From these to the outputs.
            outputs: Their names.
        """
        inputs, multiple = ("images", "image_sizes"), int(self.backbone.patch_size)
        return NetworkGraph(
            Network(self, compute), inputs, tuple(outputs), multiple, free_batch=False, example=_EXAMPLE
        )

    def check_classes(self, metainfo: Mapping[str, Any]) -> None:
        """Compare the model with the `classes` of a dataset.

        Raises:
            OptionError: Their number is not the model's.
        """
        check_class_count(self.num_classes, metainfo)


def image_sizes_of(data_samples: Sequence[BaseDataElement]) -> list[tuple[int, int]]:
    """(H, W) of images in the network's input, without padding."""
    return [(sample.img_shape[0], sample.img_shape[1]) for sample in data_samples]


def sizes_as_tensor(image_sizes: Sequence[tuple[int, int]], inputs: Tensor) -> Tensor:
    """Sizes (H, W) as the graphs of detectors take them: float32 [B, 2], beside the images."""
    return torch.tensor(image_sizes, dtype=torch.float32, device=inputs.device)


def objects_with_area(sample: BaseDataElement, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Objects of a sample on the device; boxes without area cannot be learned from and are left out.

    Returns:
        Boxes [G, 4] (xyxy, float32, input pixels), labels [G], and which of the sample's objects these are [N] bool.
    """
    truth = sample.gt_instances
    boxes = torch.as_tensor(truth.bboxes).to(device, torch.float32)
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[keep], truth.labels.to(device)[keep], keep
