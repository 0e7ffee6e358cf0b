"""VideoTracker: an encoder whose features carry the labels of objects through a video, without training.

Letters: B frames; H, W rows and columns of pixels; h, w of tokens; C channels; T frames of a video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from pe_spatial.backbones.contract import build_backbone, with_statistics
from pe_spatial.common.errors import ConfigError, OptionError
from pe_spatial.common.parts import build_options
from pe_spatial.inference.inputs import Channels, Picture
from pe_spatial.tracking.decoding import Decoding
from pe_spatial.tracking.frames import open_frames
from pe_spatial.tracking.inputs import Mask, to_frame, to_mask
from pe_spatial.tracking.label_tracker import LabelTracker
from pe_spatial.tracking.masks import read_mask
from pe_spatial.tracking.prompts import Boxes, BoxPrompter, Points, Prompter, numbered_boxes
from pe_spatial.tracking.propagation import Propagation, propagate, unit
from pe_spatial.tracking.resizing import Resizing


@MODELS.register_module()
class VideoTracker(BaseModel):
    """Follows objects from frame to frame; memory does not grow with the video.

        tracker.init(first_frame, mask=mask)
        for frame in frames:
            ids = tracker.step(frame)

    Args:
        backbone: of the model registry, with one map as output; its weights are never trained.
        resizing: fields of `pe_spatial.tracking.resizing.Resizing`.
        propagation: fields of `pe_spatial.tracking.propagation.Propagation`.
        decoding: fields of `pe_spatial.tracking.decoding.Decoding`.
        recent: how many of the last frames serve as context, besides those with given masks.
        dtype: of the encoder and of the features, `float32` or `bfloat16`.
        prompter: turns boxes and points into masks; None uses the box itself.
        normalization: turns frames into the encoder's input; None uses the mean and deviation of the encoder.

    Raises:
        ConfigError: an unknown field, or statistics that are not the encoder's.
        OptionError: a backbone with several maps.
    """

    task = "tracking"
    maps_taken: int | None = 1

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        resizing: Mapping[str, Any],
        propagation: Mapping[str, Any] | None = None,
        decoding: Mapping[str, Any] | None = None,
        recent: int = 7,
        dtype: str = "float32",
        prompter: Mapping[str, Any] | None = None,
        normalization: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype {dtype!r} is not one of float32, bfloat16")
        self.dtype = getattr(torch, dtype)
        module = build_backbone(backbone, "VideoTracker", maps=self.maps_taken, needs=("patch_size",))
        self.patch_size = int(module.patch_size)
        self.backbone = module.to(self.dtype).requires_grad_(False).eval()
        statistics = with_statistics({"type": "DensePreprocessor", **(normalization or {})}, module)
        self.normalize = MODELS.build(statistics)
        self.resizing = build_options(Resizing, resizing, "resizing")
        self.labels = LabelTracker(
            build_options(Propagation, propagation or {}, "propagation"),
            build_options(Decoding, decoding or {}, "decoding"),
            recent,
        )
        self.prompter: Prompter = BoxPrompter() if prompter is None else MODELS.build(dict(prompter))

    @property
    def device(self) -> torch.device:
        """Where the tracker computes."""
        return self.data_preprocessor.device

    @torch.no_grad()
    def maps(self, frames: Sequence[Tensor]) -> tuple[list[Tensor], tuple[int, int]]:
        """Run the encoder on frames of one size, uint8 [3, H, W].

        Returns:
            For every map of the backbone [B, h, w, C] unit vectors; and (H, W) of the encoder's input.

        Raises:
            ValueError: the frames differ in size.
        """
        sizes = {tuple(frame.shape[-2:]) for frame in frames}
        if len(sizes) > 1:
            raise OptionError(f"frames of {sorted(sizes)} (H, W) in one video; all must have one size: resize them")
        resized = [self.resizing(frame.to(self.device), self.patch_size) for frame in frames]
        images = self.normalize({"inputs": resized})["inputs"].to(self.dtype)  # [B, 3, H, W]
        maps = [unit(features.permute(0, 2, 3, 1)) for features in self.backbone(images)]
        return maps, (images.shape[-2], images.shape[-1])

    def init(
        self,
        frame: Picture,
        *,
        mask: Mask | None = None,
        boxes: Boxes | Sequence[Any] | None = None,
        points: Points | None = None,
        channels: Channels = "rgb",
    ) -> Tensor:
        """Begin a video with its first frame and the objects on it; see `step`.

        Raises:
            ValueError: no object is given; or as `step` says.
        """
        if mask is None and not numbered_boxes(boxes) and not points:
            raise OptionError("nothing to track: give a mask, boxes or points for the first frame")
        self.labels.reset()
        return self.step(frame, mask=mask, boxes=boxes, points=points, channels=channels)

    def step(
        self,
        frame: Picture,
        *,
        mask: Mask | None = None,
        boxes: Boxes | Sequence[Any] | None = None,
        points: Points | None = None,
        channels: Channels = "rgb",
    ) -> Tensor:
        """Follow the objects into the next frame.

        Objects that are given with a frame enter there, or are corrected if their number is known.

        Args:
            frame: a path, a PIL image, or a uint8 array [H, W, 3] or tensor [3, H, W] (see `read_picture`), of the
                size of the frames before.
            mask: a path, a PIL image, or an array or tensor [H, W] of integers or bool (see `to_mask`); 0 = not said.
            boxes: xyxy in pixels of the frame, by object number; those of a list are numbered from 1.
            points: (x, y, True for on the object or False for beside it), by object number.
            channels: the order of colors in arrays and tensors; OpenCV's is "bgr".

        Returns:
            uint8 [H, W] on the tracker's device: object numbers, 0 = background.

        Raises:
            ValueError: a frame or a mask of another size, a mask without objects, more than 255 objects.
        """
        image = to_frame(frame, channels)
        maps, input_size = self.maps([image])
        return self.follow(maps[0][0], input_size, image, self.prompt(image, to_mask(mask), boxes, points))

    def track(
        self,
        frames: Iterable[Picture],
        masks: Mapping[int, Mask] | Callable[[int], Mask | None],
        batch: int = 1,
        channels: Channels = "rgb",
    ) -> Iterator[Tensor]:
        """Follow objects through a video; the encoder sees `batch` frames at a time, and no more are in memory.

        Goes on where the tracker stands: call `labels.reset()` before another video.

        Args:
            frames: as of `step`; a list or a generator.
            masks: as of `step`, by number of the frame, or a function of it.
            batch: frames per pass of the encoder.
            channels: as of `step`.

        Yields:
            As `step` returns.

        Raises:
            ValueError: see `step`; and no object on the first frame that is given at all.
        """
        look_up = masks.get if isinstance(masks, Mapping) else masks
        iterator = (to_frame(frame, channels) for frame in frames)
        while chunk := list(islice(iterator, batch)):
            maps, input_size = self.maps(chunk)
            for frame, features in zip(chunk, maps[0], strict=True):
                yield self.follow(features, input_size, frame, to_mask(look_up(self.labels.frame)))

    def follow(self, features: Tensor, input_size: tuple[int, int], frame: Tensor, mask: Tensor | None) -> Tensor:
        """`step` with features [h, w, C] of `maps`."""
        height, width = frame.shape[-2:]
        return self.labels.step(features, input_size, (height, width), mask)

    def prompt(
        self,
        frame: Tensor,
        mask: Tensor | None,
        boxes: Boxes | Sequence[Any] | None = None,
        points: Points | None = None,
    ) -> Tensor | None:
        """Make one mask [H, W] of all that is given; a mask goes before boxes and points."""
        numbered = numbered_boxes(boxes)
        if not numbered and not points:
            return mask
        drawn = self.prompter(frame, numbered, points or {})
        return drawn if mask is None else torch.where(mask > 0, mask, drawn.to(mask))

    def forward(
        self, inputs: Any, data_samples: Sequence[BaseDataElement] | None = None, mode: str = "tensor"
    ) -> list[BaseDataElement] | tuple[Tensor, Tensor]:
        """Track the videos of a dataset of `pe_spatial.tracking.datasets`, as a Runner's test loop asks for it.

        Or, in the mode `tensor`, follow objects into one frame without the state of this tracker, for `torch.compile`
        and `torch.export`; `pe_spatial.tracking.tracking_step.TrackingStep` turns shares into masks.

        Args:
            inputs: names of the videos, unused; for `tensor` images [1, 3, H, W] as `normalize` returns them, keys
                [h, w, S, C] and labels [h, w, S, M] of S context frames.
            data_samples: one per video, with the metainfo `frame_paths` and `prompts`.
            mode: `predict` or `tensor`.

        Returns:
            The data samples with `pred_track_ids`, uint8 [T, H, W] on the CPU. For `tensor` the features [h, w, C],
            unit vectors, and the shares [h, w, M] of the objects.

        Raises:
            ValueError: another mode, for there is nothing to train.
        """
        if mode == "tensor" and data_samples is None:
            images, keys, labels = inputs
            features = unit(self.backbone(images.to(self.dtype))[0][0].permute(1, 2, 0))
            return features, propagate(features, keys, labels, self.labels.propagation)
        if mode != "predict" or data_samples is None:
            raise OptionError(
                f"mode {mode!r}: this tracker is not trained; use mode='predict', or 'tensor' without samples"
            )
        for sample in data_samples:
            self.labels.reset()
            frames = (frame.image for frame in open_frames(sample.frame_paths))
            masks = self.track(frames, {number: read_mask(**given) for number, given in sample.prompts.items()})
            sample.pred_track_ids = torch.stack([ids.cpu() for ids in masks])
        return list(data_samples)

    def train(self, mode: bool = True) -> VideoTracker:
        """Stay in evaluation mode: nothing is trained."""
        return super().train(False)
