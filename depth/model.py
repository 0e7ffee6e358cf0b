"""DepthModel: a backbone and a head that predict depth at the size of the image."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn
from torch.nn import functional as F

from pe_spatial.backbones.contract import build_backbone, with_statistics
from pe_spatial.common.errors import OptionError
from pe_spatial.common.graphs import Engine, Network, NetworkGraph, only_graph
from pe_spatial.common.parts import ModalModel, build_options, build_part, unpad
from pe_spatial.data.stacked import stack_labels
from pe_spatial.depth.tiling import DepthTiling


@MODELS.register_module()
class DepthModel(ModalModel):
    """Depth from single images.

    Args:
        backbone: Config of a backbone that keeps the contract of `pe_spatial.backbones`.
        head: Config of a head (see `depth.heads`); `in_channels` follow from the backbone.
        losses: Configs of the losses (see `depth.losses`), summed with their own weights.
        metric: Whether the predicted values are meters. A model whose losses leave the scale open is relative.
        flip_test: Predict the mean of an image and of its mirror image.
        tiling: Arguments of `DepthTiling` for images larger than a tile; None predicts every image as a whole.
        data_preprocessor: Config of the batch preparation; pads to multiples of the patch size.
    """

    task = "depth"
    title = "Depth model"

    def __init__(
        self,
        backbone: Mapping[str, Any],
        head: Mapping[str, Any],
        losses: Sequence[Mapping[str, Any]],
        metric: bool = True,
        flip_test: bool = False,
        tiling: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        module = build_backbone(backbone, self.title)
        super().__init__(with_statistics(data_preprocessor, module))
        self.backbone = module
        self.head = build_part("head", head, in_channels=list(self.backbone.channels))
        self.losses = nn.ModuleList(MODELS.build(loss) for loss in losses)
        if metric and not any(loss.fixes_scale for loss in self.losses):
            raise OptionError(
                "no loss determines the scale, so the values cannot be meters; set metric=False, or invariance "
                "below 1 in ScaleInvariantLogLoss"
            )
        self.metric = metric
        self.flip_test = flip_test
        self.tiling = None if tiling is None else build_options(DepthTiling, tiling, "tiling")
        self._engine: Engine | None = None
        patch = self.backbone.patch_size
        if self.tiling is not None and any(side % patch for side in self.tiling.tile):
            raise OptionError(
                f"tile {self.tiling.tile} (H, W) is not a multiple of the patch size {patch}; use "
                f"{tuple(side // patch * patch or patch for side in self.tiling.tile)}"
            )

    def raw(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None) -> Tensor:
        """Depth [B, 1, H, W] of images [B, 3, H, W], H and W multiples of the patch size."""
        if self._engine is not None:
            return self._engine(inputs)[0]
        return self._depth(inputs)

    def _depth(self, inputs: Tensor) -> Tensor:
        depth = self.head(self.backbone(inputs))
        return F.interpolate(depth, size=inputs.shape[-2:], mode="bilinear", align_corners=False)  # [B, 1, H, W]

    def graph(self, kind: str = "") -> NetworkGraph:
        """See `Exportable`: images to depth at their size, without mirror images and tiles."""
        only_graph(kind)
        network = Network(self, lambda images: [self._depth(images)])
        return NetworkGraph(network, ("images",), ("depth",), self.backbone.patch_size)

    def use_engine(self, run: Engine) -> None:
        """See `Exportable`."""
        self._engine = run

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """The losses by name; the samples have `gt_depth`, padded like the images."""
        target = stack_labels(data_samples, "gt_depth")  # [B, 1, H, W]
        least, greatest = self.head.depth_range
        valid = (target >= least) & (target <= greatest)
        depth = self.raw(inputs)
        return {f"loss_{loss.name}": loss(depth, target, valid) for loss in self.losses}

    def predict(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> list[BaseDataElement]:
        """Fill `pred_depth` [1, h, w] in the frame of the original image.

        Args:
            inputs: As those of `raw`.
            data_samples: With the metainfo of `DensePreprocessor`. They also get `depth_is_metric`, `depth_unit` and
                `depth_range`.
        """
        depth = self._depth_of_mirrors if self.flip_test else self.raw
        batch = depth(inputs) if self.tiling is None else self.tiling(depth, inputs, self.backbone.patch_size)
        for sample, padded in zip(data_samples, batch, strict=True):
            sample.set_field(PixelData(data=unpad(sample, padded)), "pred_depth", dtype=PixelData)
            sample.set_metainfo(
                {
                    "depth_is_metric": self.metric,
                    "depth_unit": "meters" if self.metric else "relative",
                    "depth_range": self.head.depth_range,
                }
            )
        return list(data_samples)

    def _depth_of_mirrors(self, inputs: Tensor) -> Tensor:
        return (self.raw(inputs) + self.raw(inputs.flip(-1)).flip(-1)) / 2
