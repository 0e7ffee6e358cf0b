"""TimmBackbone: an encoder of timm, transformer or convnet, as a source of maps for dense prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor, nn

from pe_spatial.backbones.fine_maps import Upsampling, add_upsampler
from pe_spatial.backbones.timm_models import build_model
from pe_spatial.backbones.timm_weights import load_timm_weights
from pe_spatial.backbones.upsampling import Interpolation
from pe_spatial.backbones.vit import resolve_blocks
from pe_spatial.common.errors import OptionError


@MODELS.register_module()
class TimmBackbone(nn.Module):
    """An encoder of timm that returns maps: exactly those of timm's `forward_intermediates`.

    Args:
        model: timm's name, such as `vit_small_patch14_dinov2`, with or without the tag of its weights.
        layers: Which of the features are returned, from 0, or from the end if negative: blocks of a transformer,
            stages of a convnet or of a hierarchical transformer.
        norm: Apply the model's final norm to the maps, as timm's `norm=True` does.
        img_size: Size in pixels, one number or (H, W), that the table of positions is made for; None is timm's. A
            model that takes no other size than that needs it.
        drop_path: Skipping probability of the last block.
        checkpointing: Save memory in training by computing the blocks twice.
        frozen: True freezes everything; a number freezes the embeddings and that many of the features.
        weights: A file; None draws random weights. Nothing is fetched.
        options: More arguments of timm's model, such as `{patch_size: 16}`.
        upsampling: `bilinear` leaves the maps as they are; for finer ones see
            `pe_spatial.backbones.fine_maps.build_upsampler`.

    Attributes:
        channels: Channels of every map.
        strides: Pixels per cell of every map.
        patch_size: The sides of an image must be multiples of it: the largest of the strides.
        mean: Of the images that the weights were trained with, per channel (RGB), on the scale 0…255.
        std: Their deviation, likewise.
        num_layers: Number of layers for layer-wise decay.

    Raises:
        MissingPackage: timm is not installed.
        UnknownName: timm has no such model.
        OptionError: An option outside its range, or a model whose features are no maps.
        WeightsError: The file does not fit.
    """

    def __init__(
        self,
        model: str,
        layers: Sequence[int] = (-1,),
        *,
        norm: bool = False,
        img_size: int | tuple[int, int] | None = None,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        frozen: bool | int = False,
        weights: str | None = None,
        options: Mapping[str, Any] | None = None,
        upsampling: Upsampling = "bilinear",
    ) -> None:
        super().__init__()
        self.encoder = build_model(model, img_size, drop_path, options or {})
        self.model = model
        features = _features(model, self.encoder)
        if weights is not None:
            print_log(f"Encoder weights: {load_timm_weights(self.encoder, weights, True)}", "current")
        if checkpointing:
            self.encoder.set_grad_checkpointing(True)
        self.layers = tuple(resolve_blocks(layers, len(features)))
        if not self.layers:
            raise OptionError("layers is empty; name at least one, for example [-1] for the last")
        self.norm = norm
        taken = [features[layer] for layer in self.layers]
        self.channels = tuple(
            feature.get("num_chs_norm" if norm else "num_chs", feature["num_chs"]) for feature in taken
        )
        self.strides = tuple(int(feature["reduction"]) for feature in taken)
        self.patch_size = max(self.strides)
        self.mean, self.std = (
            tuple(255 * value for value in self.encoder.pretrained_cfg[key]) for key in ("mean", "std")
        )
        self._layer_of, self._ends = _layers(self.encoder, features)
        self.num_layers = self._ends[-1] + 1
        self.frozen_layers = self._count_frozen(frozen)
        self._fix_parameters()
        self.upsampler: Interpolation | None = None
        add_upsampler(self, upsampling)
        self.train()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map normalized images [B, 3, H, W] to one [B, C_i, H / s_i, W / s_i] for every entry of `layers`.

        Raises:
            OptionError: The model does not take this size.
        """
        H, W = x.shape[-2:]
        if H % self.patch_size or W % self.patch_size:
            raise OptionError(
                f"image {(H, W)} (H, W) is not a multiple of {self.patch_size}, which {self.model} needs; resize, or "
                f"set size_divisor: {self.patch_size} in the preprocessor"
            )
        order = sorted(set(self.layers))
        try:
            maps = self.encoder.forward_intermediates(
                x, indices=order, norm=self.norm, stop_early=True, output_fmt="NCHW", intermediates_only=True
            )
        except AssertionError as error:  # how timm's models refuse a size
            raise OptionError(
                f"image {(H, W)} (H, W): {self.model} does not take it ({error}); set img_size"
            ) from error
        maps = tuple(maps[order.index(layer)] for layer in self.layers)
        return maps if self.upsampler is None else self.upsampler(x, maps)

    def layer_of(self, parameter_name: str) -> int:
        """Return the layer of a parameter for layer-wise decay, 0 for the embeddings, as timm groups them.

        What follows the last feature counts as part of it.

        Args:
            parameter_name: As in `named_parameters()` of this module.

        Raises:
            KeyError: The name is none of this module's.
        """
        prefix, _, name = parameter_name.partition(".")
        if prefix == "upsampler":
            return self._ends[-1]
        if prefix != "encoder" or name not in self._layer_of:
            raise KeyError(f"{parameter_name!r} is not a parameter of TimmBackbone; names begin with 'encoder.'")
        return min(self._layer_of[name], self._ends[-1])

    def train(self, mode: bool = True) -> TimmBackbone:
        """Switch training mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.frozen_layers:
            for name, module in self.encoder.named_modules():
                parts = [f"{name}.{key}" if name else key for key, _ in module.named_parameters()]
                if parts and all(self._layer_of[part] < self.frozen_layers for part in parts):
                    module.eval()
        return self

    def _count_frozen(self, frozen: bool | int) -> int:
        """Return how many layers of layer-wise decay are frozen."""
        if isinstance(frozen, bool):
            return max(self._layer_of.values()) + 1 if frozen else 0
        if not 0 <= frozen < len(self._ends):
            raise OptionError(f"frozen {frozen} exceeds the {len(self._ends)} features; use True to freeze everything")
        return self._ends[frozen - 1] + 1 if frozen else 1

    def _fix_parameters(self) -> None:
        """Stop the gradient of parameters that are frozen or that no map depends on."""
        last = self._ends[max(self.layers)]
        for name, parameter in self.encoder.named_parameters():
            layer = self._layer_of[name]
            is_norm = self.norm and name.startswith("norm")
            if layer < self.frozen_layers or (layer > last and not is_norm):
                parameter.requires_grad_(False)


def _features(name: str, model: nn.Module) -> list[dict[str, Any]]:
    """Timm's description of the features of a model: where they are, their channels and their reduction."""
    info = getattr(model, "feature_info", None)
    if not hasattr(model, "forward_intermediates") or not info:
        raise OptionError(f"{name}: timm gives no maps of its features; take another model")
    return list(getattr(info, "info", info))


def _layers(model: nn.Module, features: Sequence[Mapping[str, Any]]) -> tuple[dict[str, int], list[int]]:
    """The layer of every parameter for layer-wise decay, as timm groups them, and the last layer of every feature."""
    from timm.models import group_parameters

    layer_of: dict[str, int] = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    ends = []
    for feature in features:
        inside = [layer for name, layer in layer_of.items() if name.startswith(f"{feature['module']}.")]
        ends.append(max([*inside, *ends[-1:]], default=0))
    return layer_of, ends
