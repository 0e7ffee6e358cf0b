"""From a list of images to a batch: device, normalization and padding."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.common.errors import ConfigError, OptionError, PictureError, few, require_positive
from pe_spatial.data.sample import IGNORE_LABEL


@MODELS.register_module()
class DensePreprocessor(BaseDataPreprocessor):
    """uint8 images [3, h, w] to one float32 batch [B, 3, H, W] on the model's device.

    Images travel to the device as uint8 and are normalized there, (image - mean) / std. Padding is at the bottom and
    at the right, with 0, which is the color `mean`. H and W are those of the largest image, rounded up to
    `size_divisor`, or `pad_to`.

    Args:
        mean: Per channel (RGB), on the scale 0…255. The default is PE's 0.5.
        std: Standard deviation, likewise.
        size_divisor: H and W become multiples of it; the patch size or a multiple.
        pad_to: (H, W) of every batch, for models that need a fixed size.
    """

    def __init__(
        self,
        mean: Sequence[float] = (127.5, 127.5, 127.5),
        std: Sequence[float] = (127.5, 127.5, 127.5),
        size_divisor: int = 1,
        pad_to: Sequence[int] | None = None,
    ) -> None:
        super().__init__(non_blocking=True)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise OptionError(f"mean {list(mean)} and std {list(std)} must have three numbers each, std above 0")
        if max(std) <= 1:
            raise OptionError(f"std {list(std)} is on the scale 0…1, pixels are 0…255; multiply mean and std by 255")
        require_positive(size_divisor=size_divisor)
        if pad_to is not None and (len(pad_to) != 2 or any(side % size_divisor or side < 1 for side in pad_to)):
            raise OptionError(f"pad_to {list(pad_to)} must be (H, W), both multiples of size_divisor {size_divisor}")
        self.size_divisor = size_divisor
        self.pad_to = None if pad_to is None else (int(pad_to[0]), int(pad_to[1]))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Collate packed samples (see `pe_spatial.data.sample`).

        Args:
            data: `inputs`, a list of uint8 [3, h, w] of any sizes (or one tensor [B, 3, h, w]), and optionally
                `data_samples`, a list of equal length.
            training: Pad `gt_sem_seg` (with 255) and `gt_depth` (with 0) like the images. Otherwise labels keep the
                frame of their annotation.

        Returns:
            `inputs` [B, 3, H, W] and `data_samples` with the metainfo `padding_size` (left, right, top, bottom) and
            `batch_input_shape` (H, W).

        Raises:
            ConfigError: An image is not uint8 [3, h, w].
            OptionError: There are no inputs.
            PictureError: An image is larger than `pad_to`.
        """
        if "inputs" not in data:
            raise OptionError(f"the samples have {few(data)}, but no inputs: their pipeline must end with PackSample")
        data = self.cast_data({"inputs": data["inputs"], "data_samples": data.get("data_samples")})
        images: list[Tensor] = list(data["inputs"])
        for image in images:
            if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
                raise ConfigError(
                    f"an image is {image.dtype} {tuple(image.shape)} but must be uint8 [3, H, W]; leave normalization "
                    "and batching to DensePreprocessor"
                )
        H, W = self._batch_shape([(image.shape[1], image.shape[2]) for image in images])
        batch = torch.zeros(len(images), 3, H, W, device=self.mean.device)  # [B, 3, H, W]
        for image, slot in zip(images, batch, strict=True):
            region = slot[:, : image.shape[1], : image.shape[2]]
            torch.sub(image, self.mean, out=region)
            region.div_(self.std)
        if data["data_samples"] is not None:
            for image, data_sample in zip(images, data["data_samples"], strict=True):
                _note_padding(data_sample, image, (H, W), training)
        return {"inputs": batch, "data_samples": data["data_samples"]}

    def _batch_shape(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        largest = max(h for h, _ in sizes), max(w for _, w in sizes)
        if self.pad_to is None:
            H, W = (-(-side // self.size_divisor) * self.size_divisor for side in largest)
            return H, W
        if largest[0] > self.pad_to[0] or largest[1] > self.pad_to[1]:
            raise PictureError(
                f"an image of {largest} (H, W) does not fit pad_to {self.pad_to}; resize or crop it in the pipeline"
            )
        return self.pad_to


def _note_padding(data_sample: BaseDataElement, image: Tensor, shape: tuple[int, int], pad_labels: bool) -> None:
    right, bottom = shape[1] - image.shape[2], shape[0] - image.shape[1]
    data_sample.set_metainfo({"padding_size": (0, right, 0, bottom), "batch_input_shape": shape})
    for field, fill in (("gt_sem_seg", IGNORE_LABEL), ("gt_depth", 0)) if pad_labels else ():
        if field in data_sample:
            padded = F.pad(data_sample.get(field).data, (0, right, 0, bottom), value=fill)
            data_sample.set_field(PixelData(data=padded), field, dtype=PixelData)
