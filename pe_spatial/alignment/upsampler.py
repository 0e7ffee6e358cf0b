"""Training of an upsampler for one frozen encoder, on photographs without labels.

The map of the encoder is pooled to a fraction of its size. The upsampler is given the pooled map and the picture at the
same fraction of its size, and is to find the map itself. Nothing but the encoder says what is right, and it runs once.

Letters: B images; H, W rows and columns of pixels; h, w of tokens; C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.backbones.contract import build_backbone, with_statistics
from pe_spatial.backbones.fine_maps import build_upsampler, require_patches, save_upsampler
from pe_spatial.backbones.upsampling import LearnedUpsampler
from pe_spatial.common.errors import ConfigError, OptionError
from pe_spatial.common.parts import ModalModel
from pe_spatial.training.checkpoint_hook import unwrap
from pe_spatial.training.explanation import ExplainedMetric, Measure


@MODELS.register_module()
class UpsamplerTraining(ModalModel):
    """A frozen encoder, and the upsampler that learns to sharpen its maps.

    Args:
        backbone: Config of a frozen backbone without upsampling; its `layers` are those that the upsampler is for.
        upsampler: `stride` and other options of `LearnedUpsampler`.
        reduction: Sides of the map over those of the pooled one.
        data_preprocessor: Config of the batch preparation.

    Raises:
        ConfigError: A backbone that is trained or has upsampling, or statistics that are not its own.
        OptionError: A reduction below 2.
    """

    task = "alignment"

    def __init__(
        self,
        backbone: Mapping[str, Any],
        upsampler: Mapping[str, Any],
        reduction: int = 4,
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        module = build_backbone(backbone, type(self).__name__)
        super().__init__(with_statistics(data_preprocessor or {"type": "DensePreprocessor"}, module))
        if not isinstance(reduction, int) or reduction < 2:
            raise OptionError(
                f"reduction {reduction} must be a whole number of at least 2; 4 compares at a quarter of a patch"
            )
        self.backbone = module
        if any(parameter.requires_grad for parameter in self.backbone.parameters()):
            raise ConfigError("an upsampler belongs to one encoder, which must not change: set backbone.frozen: true")
        require_patches(self.backbone, type(self).__name__)
        settings = {"type": "learned", "weights": None, **upsampler}
        built: Any = build_upsampler(settings, self.backbone)
        self.upsampler: LearnedUpsampler = built
        self.reduction = reduction

    def raw(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None) -> tuple[Tensor, ...]:
        """The fine maps [B, C, H / stride, W / stride] of images [B, 3, H, W]."""
        return self.upsampler(inputs, self.backbone(inputs))

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """`loss_upsampling`: the squared difference of the maps, in variances of a channel, mean over maps.

        Args:
            inputs: As those of `raw`; H and W are multiples of patch size times reduction.
            data_samples: Unused.
        """
        small, coarse, targets = self._pair(inputs)
        errors = [
            error_of(fine, target).mean() for fine, target in zip(self.upsampler(small, coarse), targets, strict=True)
        ]
        return {"loss_upsampling": torch.stack(errors).mean()}

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> list[BaseDataElement]:
        """Fill each sample's `upsampling`: the error of the upsampler, and that of bilinear interpolation."""
        small, coarse, targets = self._pair(inputs)
        fine = self.upsampler(small, coarse)
        plain = [F.interpolate(features, targets[0].shape[-2:], mode="bilinear") for features in coarse]
        errors = {
            name: torch.stack([error_of(*pair) for pair in zip(maps, targets, strict=True)]).mean(0)  # [B]
            for name, maps in (("error", fine), ("bilinear_error", plain))
        }
        for number, sample in enumerate(data_samples):
            sample.set_metainfo({"upsampling": {name: float(values[number]) for name, values in errors.items()}})
        return list(data_samples)

    def train(self, mode: bool = True) -> UpsamplerTraining:
        """Switch training mode; the encoder stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    @torch.no_grad()
    def _pair(self, inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The small picture, the pooled maps, and the maps."""
        unit = self.backbone.patch_size * self.reduction
        if any(side % unit for side in inputs.shape[-2:]):
            raise OptionError(
                f"images of {tuple(inputs.shape[-2:])} (H, W) pixels do not split into tokens at 1/{self.reduction} of "
                f"their size; make both sides multiples of {unit} with size_divisor, or in the pipeline"
            )
        targets = self.backbone(inputs)
        small = F.avg_pool2d(inputs, self.reduction)
        return small, tuple(F.avg_pool2d(features, self.reduction) for features in targets), targets


def error_of(fine: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of maps in variances of a channel, [B].

    Args:
        fine: [B, C, y, x] of any grid that is at least as fine as that of the target; its mean over a cell counts.
        target: [B, C, h, w].
    """
    grid = (target.shape[-2], target.shape[-1])
    fine, target = F.adaptive_avg_pool2d(fine.float(), grid), target.float()
    variance = target.var(dim=(0, 2, 3), keepdim=True).clamp_min(1e-12)  # [1, C, 1, 1]
    return ((fine - target).square() / variance).mean(dim=(1, 2, 3))


@METRICS.register_module()
class UpsamplingMetric(ExplainedMetric):
    """Means over images of what `UpsamplerTraining` finds in mode "predict".

    `upsampling/error`: of the upsampler, in variances of a channel. `upsampling/bilinear_error`: of bilinear
    interpolation of the same map.
    """

    default_prefix = "upsampling"
    measures: ClassVar[dict[str, Measure]] = {
        "error": Measure("error", "squared difference from the map of the encoder", higher_is_better=False),
        "bilinear_error": Measure("bilinear error", "the same of bilinear interpolation", higher_is_better=False),
    }

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Collect the values of a batch."""
        self.results += [sample["upsampling"] for sample in data_samples]

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Means."""
        return {name: sum(values[name] for values in results) / len(results) for name in results[0]}


@HOOKS.register_module()
class UpsamplerExportHook(Hook):
    """Writes the upsampler when training ends, for `upsampling: {type: learned, weights: FILE}`.

    Args:
        name: File in the work folder.
    """

    priority = "VERY_LOW"

    def __init__(self, name: str = "upsampler.safetensors") -> None:
        if Path(name).name != name or not Path(name).suffix:
            raise OptionError(f"name {name!r} must be the name of a file, without a folder")
        self.name = name

    def after_train(self, runner: Runner) -> None:
        """Write."""
        model = unwrap(runner.model)
        if not isinstance(model, UpsamplerTraining):
            raise ConfigError(f"UpsamplerExportHook needs an UpsamplerTraining, not {type(model).__name__}")
        if is_main_process():
            path = Path(runner.work_dir) / self.name
            save_upsampler(model.upsampler, path, model.backbone)
            runner.logger.info(f"the upsampler is in {path}; give it to the backbone as upsampling.weights")
