"""The sample contract, and the step that turns a sample into what a model receives.

A *record* is what a dataset's `load_data_list` yields: a picklable dict of paths and small lists. Nothing is decoded.

    img_path      str, the image file
    archive       (file, offset, bytes), where the image lies inside a larger file: then img_path is only its name
    img_id        int or str, unique in the dataset
    height, width int, optional: checked against the decoded image
    instances     list of {bbox: [x1, y1, x2, y2], label: 0…K-1, mask: polygons or RLE, ignore: bool}
    seg_map_path  str, a label map
    depth_path    str, a depth map
    frame_paths   list of str, the frames of a video in order (instead of `img_path`)

A *sample* is the record after the loaders of `pe_spatial.data.loading`; torchvision's v2 transforms move all of its
tv_tensors together.

    img             tv_tensors.Image uint8 [3, H, W], RGB; a video is tv_tensors.Video [T, 3, H, W]
    boxes           tv_tensors.BoundingBoxes float32 [N, 4], xyxy, pixels of the current canvas
    labels          int64 [N], 0…K-1
    masks           tv_tensors.Mask bool [N, H, W] or pe_spatial.data.polygons.Polygons; of a video int64 ids [T, H, W]
    ignored_boxes   tv_tensors.BoundingBoxes [M, 4]: regions that are neither object nor background (crowds)
    ignored_labels  int64 [M], what they are crowds of
    ignored_masks   tv_tensors.Mask bool [M, H, W], or Polygons
    sem_seg         tv_tensors.Mask int64 [1, H, W], 255 = ignore
    depth           tv_tensors.Mask float32 [1, H, W], meters, 0 = no measurement
    mask_logits     a teacher's masks on a grid of tokens, [K, h, w] (pe_spatial.alignment's TokenMap)
    token_mask      bool [1, h, w], the tokens that are hidden from a student
    captions        list of texts that are true of the image
    shifts          (row, column) of the windows that a student and its teachers see (pe_spatial.alignment)
    ori_shape       (H, W) of the decoded image; everything else of the record passes through untouched

A *packed sample* is `{"inputs": uint8 tensor [3, H, W], "data_samples": BaseDataElement}`. The data sample holds
`gt_instances` (InstanceData: bboxes, labels, masks), `ignored_instances` (the same), `gt_sem_seg`, `gt_depth`,
`mask_logits`, `token_mask` and, of videos, `gt_track_ids` (PixelData), each only where the sample has it, and the
metainfo `img_path`, `img_id`, `captions` and `shifts` (where there are some), `ori_shape` and `img_shape`, both (H, W).
mmengine's `pseudo_collate` batches packed samples into lists. Masks that are polygons become a list of outlines, which
stays on the CPU.
"""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor
from torchvision import tv_tensors

from pe_spatial.common.errors import ConfigError, OptionError
from pe_spatial.data.polygons import Outline, Polygons

IGNORE_LABEL = 255

_INSTANCE_FIELDS = {
    "gt_instances": {"bboxes": "boxes", "labels": "labels", "masks": "masks"},
    "ignored_instances": {"bboxes": "ignored_boxes", "labels": "ignored_labels", "masks": "ignored_masks"},
}
_PIXEL_FIELDS = {"gt_sem_seg": "sem_seg", "gt_depth": "depth", "mask_logits": "mask_logits", "token_mask": "token_mask"}


@TRANSFORMS.register_module()
class PackSample:
    """Last step of every pipeline: a sample becomes a packed sample (both as defined in this module)."""

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Pack one sample.

        Raises:
            ConfigError: The sample has no image tensor, or an image that is not uint8.
            OptionError: Boxes, labels and masks differ in number.
        """
        image = sample.get("img")
        if not isinstance(image, Tensor) or image.dtype != torch.uint8:
            found = "missing" if image is None else f"{type(image).__name__} {getattr(image, 'dtype', '')}".strip()
            raise ConfigError(
                f"{name_of(sample)}: img is {found}, but a packed image is a uint8 tensor; start the pipeline with "
                "LoadImage and leave normalization to DensePreprocessor"
            )
        size = tuple(image.shape[-2:])
        data_sample = BaseDataElement(
            metainfo={
                "img_path": sample.get("img_path"),
                "img_id": sample.get("img_id"),
                "ori_shape": tuple(sample.get("ori_shape", size)),
                "img_shape": size,
            }
        )
        for key in ("captions", "shifts"):
            if key in sample:
                data_sample.set_metainfo({key: tuple(sample[key])})
        is_video = isinstance(image, tv_tensors.Video)
        for field, columns in {} if is_video else _INSTANCE_FIELDS.items():
            present = {name: _column(sample[key]) for name, key in columns.items() if key in sample}
            if present:
                _check_lengths(sample, present)
                data_sample.set_field(InstanceData(**present), field, dtype=InstanceData)
        for field, key in ({"gt_track_ids": "masks"} if is_video else _PIXEL_FIELDS).items():
            if key in sample:
                data_sample.set_field(PixelData(data=_plain(sample[key])), field, dtype=PixelData)
        return {"inputs": _plain(image).contiguous(), "data_samples": data_sample}


def check_frame(name: str | None, prediction: Tensor, truth: Tensor, kind: str) -> None:
    """Make sure that a prediction [..., H, W] is judged at the resolution of its annotation.

    Args:
        name: Of the image, for the message.
        prediction: What is judged.
        truth: Against this.
        kind: What `truth` is called, such as `label map`.

    Raises:
        ConfigError: Their sizes differ.
    """
    found, wanted = tuple(prediction.shape[-2:]), tuple(truth.shape[-2:])
    if found != wanted:
        raise ConfigError(
            f"{name}: the prediction is {found} (H, W) but the {kind} {wanted}; load {kind}s after the last resize "
            "of the validation pipeline"
        )


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor)


def _column(tensor: Tensor) -> Tensor | list[Outline]:
    return tensor.outlines if isinstance(tensor, Polygons) else _plain(tensor)


def name_of(sample: Mapping[str, Any]) -> str:
    """What a sample is called in messages."""
    return str(sample.get("img_path", "image"))


def _check_lengths(sample: Mapping[str, Any], columns: dict[str, Tensor | list[Outline]]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise OptionError(
            f"{name_of(sample)}: instances have {lengths}, but every column needs one row per instance; a transform "
            "filtered only some of them (use SanitizeInstances instead of SanitizeBoundingBoxes)"
        )
