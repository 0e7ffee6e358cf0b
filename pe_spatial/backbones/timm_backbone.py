"""TimmBackbone: an encoder of timm, transformer or convnet, as a source of maps for dense prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor, nn

from pe_spatial.backbones.fine_maps import Upsampling, add_upsampler
from pe_spatial.backbones.timm_models import (
    POSITION_MODES,
    TimmModel,
    build_model,
    features_of,
    has_class_token,
    import_timm,
    intermediates,
    native_size,
    resize_positions_plainly,
    study_maps,
)
from pe_spatial.backbones.timm_weights import load_timm_weights
from pe_spatial.backbones.upsampling import Interpolation
from pe_spatial.backbones.vit import resolve_blocks
from pe_spatial.common.errors import OptionError, require_choice

if TYPE_CHECKING:
    from pe_spatial.backbones.weights import Origin


@MODELS.register_module()
class TimmBackbone(nn.Module):
    """An encoder of timm that returns maps: exactly those of timm's `forward_intermediates`.

    Args:
        model: timm's name, such as `vit_small_patch14_dinov2`, with or without the tag of its weights, which decides
            the statistics.
        layers: Which of the features are returned, from 0, or from the end if negative: blocks of a transformer,
            stages of a convnet or of a hierarchical transformer.
        norm: Apply the model's final norm to the maps, as timm's `norm=True` does.
        pos_embed: How a learned table of positions meets an image of another size: `antialiased`, bicubic as timm
            does it, or `bicubic`, without antialiasing, as DINOv2's own code does it.
        img_size: Size in pixels, one number or (H, W), that the table of positions is made for; None is timm's. A
            model that takes no other size than that needs it.
        drop_path: Skipping probability of the last block.
        checkpointing: Save memory in training by computing the blocks twice.
        frozen: True freezes everything; a number freezes the embeddings and that many of the features.
        weights: A file; None draws random weights. Nothing is fetched.
        in_checkpoint: Whether checkpoints hold a frozen encoder that came from a file. False stores the hash of the
            file and its path alone; it is read from there again.
        options: More arguments of timm's model, such as `{patch_size: 16}`.
        upsampling: `bilinear` leaves the maps as they are; for finer ones see
            `pe_spatial.backbones.fine_maps.build_upsampler`.

    Attributes:
        channels: Channels of every map.
        strides: Pixels per cell of every map.
        patch_size: The sides of an image must be multiples of it: the largest of the strides.
        depth: How many features there are to choose `layers` from.
        image_size: Shorter side in pixels of the images that the model was made for.
        mean: Of the images that the weights were trained with, per channel (RGB), on the scale 0…255.
        std: Their deviation, likewise.
        num_layers: Number of layers for layer-wise decay.
        origin: Where the weights that checkpoints do without can be found again; None if checkpoints hold them.

    Raises:
        MissingPackage: timm is not installed.
        UnknownName: timm has no such model.
        OptionError: An option outside its range, or a model whose features are no maps.
        WeightsError: The file does not fit.
    """

    free_statistics = False

    def __init__(
        self,
        model: str,
        layers: Sequence[int] = (-1,),
        *,
        norm: bool = False,
        pos_embed: str = "antialiased",
        img_size: int | Sequence[int] | None = None,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        frozen: bool | int = False,
        weights: str | None = None,
        in_checkpoint: bool = False,
        options: Mapping[str, Any] | None = None,
        upsampling: Upsampling = "bilinear",
    ) -> None:
        super().__init__()
        require_choice("pos_embed", pos_embed, POSITION_MODES)
        self.model = model
        self.norm = norm
        self.pos_embed = pos_embed
        self.upsampler: Interpolation | None = None
        self._arguments = (model, img_size, drop_path, options or {})
        self.encoder: TimmModel = build_model(*self._arguments)
        self.select_layers(layers)
        if pos_embed == "bicubic":
            resize_positions_plainly(self.encoder)
        if checkpointing:
            self._recompute()
        self.origin: Origin | None = None
        if weights is not None:
            report, origin = load_timm_weights(self.encoder, weights, antialias=pos_embed == "antialiased")
            print_log(f"Encoder weights: {report}", "current")
            self.origin = origin if frozen is True and not in_checkpoint else None
        self.frozen_layers = self._count_frozen(frozen)
        self._fix_parameters()
        add_upsampler(self, upsampling)
        self.train()

    def select_layers(self, layers: Sequence[int]) -> None:
        """Return the maps of other features from now on; which parameters are trained stays as it is.

        Args:
            layers: From 0, or from the end if negative.

        Raises:
            OptionError: No feature, one that does not exist, or one that is no map.
        """
        features = features_of(self.model, self.encoder)
        self.depth = len(features)
        self.layers = tuple(resolve_blocks(layers, self.depth))
        if not self.layers:
            raise OptionError("layers is empty; give at least one, for example [-1] for the last")
        width = "num_chs_norm" if self.norm else "num_chs"
        sizes = [(int(each.get(width, each["num_chs"])), int(each["reduction"])) for each in features]
        order = sorted(set(self.layers))
        with torch.device("meta"):
            sketch = build_model(*self._arguments)
        taken = [sizes[layer] for layer in order]
        self._used = study_maps(self.model, sketch, order, self.norm, taken)
        self.channels = tuple(sizes[layer][0] for layer in self.layers)
        self.strides = tuple(sizes[layer][1] for layer in self.layers)
        self.patch_size = max(self.strides)
        if self.upsampler is not None:
            self.strides = (self.upsampler.stride,) * len(self.strides)
        self.image_size = max(min(native_size(self.encoder)) // self.patch_size, 1) * self.patch_size
        statistics = self.encoder.pretrained_cfg
        self.mean, self.std = (tuple(255 * value for value in statistics[key]) for key in ("mean", "std"))
        self._layer_of, self._ends = _layers(self.encoder, features)
        self.num_layers = self._ends[-1] + 1

    def settings(self) -> dict[str, Any]:
        """What the maps depend on besides weights and layers."""
        model, img_size, _, options = self._arguments
        size = {} if img_size is None else {"img_size": img_size}
        finer = {} if self.upsampler is None else {"upsampling": self.upsampler.settings()}
        return (
            {"type": type(self).__name__, "model": model, "norm": self.norm, "pos_embed": self.pos_embed}
            | size
            | finer
            | ({"options": dict(options)} if options else {})
        )

    def _recompute(self) -> None:
        from timm.layers import set_reentrant_ckpt

        try:
            self.encoder.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise OptionError(
                f"checkpointing: {self.model} cannot recompute its blocks; remove checkpointing"
            ) from error
        # torch's older way gives no gradient to a block whose input needs none, as behind frozen embeddings
        set_reentrant_ckpt(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map normalized images [B, 3, H, W] to one [B, C_i, H / s_i, W / s_i] for every entry of `layers`.

        Raises:
            OptionError: The model does not take this size.
        """
        return self._chosen(x, self._intermediates(x))

    def maps_and_class_tokens(self, x: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What `forward` and `class_tokens` return, in one pass.

        Raises:
            OptionError: The model has no class token; or as of `forward`.
        """
        if "cls" not in self.pools:
            raise OptionError(f"{self.model} has no class token that timm returns with its features")
        maps, prefixes = zip(*self._intermediates(x, prefix=True), strict=True)
        order = sorted(set(self.layers))
        return self._chosen(x, maps), tuple(prefixes[order.index(layer)][:, 0] for layer in self.layers)

    def class_tokens(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images [B, 3, H, W] to the class token [B, C] after every entry of `layers`.

        Raises:
            OptionError: As of `maps_and_class_tokens`.
        """
        return self.maps_and_class_tokens(x)[1]

    @property
    def pools(self) -> tuple[str, ...]:
        """What the encoder has, besides the mean of a map, to stand for a whole image: `cls`, or nothing."""
        return ("cls",) * has_class_token(self.encoder)

    def _chosen(self, x: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        order = sorted(set(self.layers))
        chosen = tuple(maps[order.index(layer)] for layer in self.layers)
        return chosen if self.upsampler is None else self.upsampler(x, chosen)

    def _intermediates(self, x: Tensor, prefix: bool = False) -> list[Any]:
        H, W = x.shape[-2:]
        if H % self.patch_size or W % self.patch_size or min(H, W) < self.patch_size:
            raise OptionError(
                f"an image of {H} x {W} is not a multiple of {self.patch_size}, as {self.model} needs it; resize the "
                f"images or pad them, for example with DensePreprocessor(size_divisor={self.patch_size})"
            )
        try:
            return intermediates(self.encoder, x, sorted(set(self.layers)), self.norm, prefix)
        except (AssertionError, RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError) or native_size(self.encoder) == (H, W):
                raise
            native = "{} x {}".format(*native_size(self.encoder))
            raise OptionError(
                f"{self.model} was built for images of {native} and does not take {H} x {W} ({error}); resize the "
                f"images, or set img_size: [{H}, {W}]"
            ) from error

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

    def frozen_state(self) -> dict[str, Tensor]:
        """The state dict of the encoder."""
        return dict(self.encoder.state_dict())

    def drop_unused(self) -> None:
        """Free what comes after the last of `layers`; checkpoints of others do not fit any more."""
        if hasattr(self.encoder, "prune_intermediate_layers"):
            self.encoder.prune_intermediate_layers(sorted(set(self.layers)), prune_norm=not self.norm, prune_head=True)

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
        if not 0 <= frozen < self.depth:
            raise OptionError(f"frozen {frozen} exceeds the {self.depth} features; use True to freeze everything")
        return self._ends[frozen - 1] + 1 if frozen else 1

    def _fix_parameters(self) -> None:
        """Stop the gradient of parameters that are frozen or that no map depends on."""
        for name, parameter in self.encoder.named_parameters():
            if name not in self._used or self._layer_of[name] < self.frozen_layers:
                parameter.requires_grad_(False)


def _layers(model: TimmModel, features: Sequence[Mapping[str, Any]]) -> tuple[dict[str, int], list[int]]:
    """The layer of every parameter for layer-wise decay, as timm groups them, and the last layer of every feature."""
    if hasattr(model, "group_matcher"):
        group = import_timm().models.group_parameters
        layer_of: dict[str, int] = group(model, model.group_matcher(coarse=False), reverse=True)
    else:  # a few models: what stands before the first feature is 0, and each feature a layer
        layer_of, begun = {}, 0
        for name, _ in model.named_parameters():
            while begun < len(features) and name.startswith(f"{features[begun]['module']}."):
                begun += 1
            layer_of[name] = begun
    ends: list[int] = []
    for feature in features:
        inside = [layer for name, layer in layer_of.items() if name.startswith(f"{feature['module']}.")]
        ends.append(max([*inside, *ends[-1:]], default=0))
    return layer_of, ends
