"""Label files to `sem_seg`, by the label format of their dataset."""

from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from torchvision import tv_tensors

from pe_spatial.common.contracts import Loader
from pe_spatial.segmentation.labels import LabelError


@TRANSFORMS.register_module()
class LoadSegmentation(Loader):
    """`seg_map_path` to `sem_seg`: int64 [1, H, W] class indices in the frame of the decoded image, 255 = no label.

    What the values of the file stand for comes with the record (`label_format`), for it belongs to the dataset.
    """

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Load one label map.

        Raises:
            UnreadableFile: The file is missing, damaged or no image.
            LabelError: Another size than the image, or a value outside the class list.
        """
        path = sample["seg_map_path"]
        labels = sample["label_format"].read(path)
        self.check_size(path, labels.shape, sample, LabelError)
        rest = {key: value for key, value in sample.items() if key != "label_format"}
        return {**rest, "sem_seg": tv_tensors.Mask(torch.from_numpy(labels)[None])}  # [1, H, W]
