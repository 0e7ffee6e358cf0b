"""PEBackbone: an encoder as a source of maps for dense prediction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor, nn

from pe_spatial.backbones.fine_maps import Upsampling, add_upsampler
from pe_spatial.backbones.lora import LoraOptions, add_adapters, is_adapter, merge_adapters
from pe_spatial.backbones.upsampling import Interpolation
from pe_spatial.backbones.variants import TRAINED_WITH, EncoderConfig, get_variant
from pe_spatial.backbones.vit import VisionTransformer, resolve_blocks
from pe_spatial.common.errors import OptionError
from pe_spatial.common.parts import build_options

if TYPE_CHECKING:
    from pe_spatial.backbones.weights import Origin


@MODELS.register_module()
class PEBackbone(nn.Module):
    """A Perception Encoder that returns maps.

    The whole encoder is the attribute `encoder`, so its state dict stays an official one. Parameters
    that the maps do not depend on (later blocks, PE-Core's pooling, a class token that windows remove) do not
    require a gradient.

    Args:
        variant: Official name, configuration or mapping of fields; see `get_variant`.
        layers: Blocks whose outputs are returned, from 0, or from the end if negative.
        norm: Apply the encoder's final norm, if it has one, to every map.
        window: Side of square attention windows in patches; None uses global attention. Windows remove the class token
            of T, S, B and L.
        global_blocks: Blocks with global attention in spite of windows.
        rope: `extrapolate`, `interpolate` or the side of a grid; see `VisionTransformer`.
        pos_embed: `bilinear`, `bicubic` or `tile`.
        patch_size: Patches of another size over the same grid of positions; weights of the variant's own size are
            resampled while they are loaded. None keeps the variant's.
        drop_path: Skipping probability of the last block; it falls linearly to 0 in the first.
        checkpointing: Save memory in training by computing the blocks twice.
        frozen: True freezes everything; a number freezes the embeddings and that many blocks.
        lora: Fields of `LoraOptions`, such as `{rank: 8}`: everything is frozen, and adapters on the matrices of the
            blocks, up to the last one of `layers`, are trained instead. Weight decay applies to them as to all
            matrices, which pulls the encoder back to its weights. None trains the encoder itself.
        weights: An official name, a file, an index of shards, or a folder with one of these; None initializes random
            weights.
        adapt: How the weights may differ from the variant, for training them further: `layer_scale`, `positions`;
            see `pe_spatial.backbones.weights.load_state_dict`.
        upsampling: `bilinear` leaves the maps at the stride of the patches; `{type: joint_bilateral, stride: 4}` and
            others make them finer; see `pe_spatial.backbones.fine_maps.build_upsampler`.

    Attributes:
        channels: Channels of every map.
        strides: Pixels per cell of every map.
        depth: How many blocks there are to choose `layers` from.
        image_size: Side in pixels of the images that the weights were last trained on.
        mean: Of the images of pretraining, per channel (RGB), on the scale 0…255.
        std: Their deviation, likewise.
        free_statistics: True, because the official detectors continue to train the encoder on images with other
            statistics.
        num_layers: Number of layers for layer-wise decay: embeddings and blocks.
        lora: Options of the adapters, or None.
        origin: Where the weights under the adapters can be found again; None for random ones and without adapters.

    Raises:
        OptionError: An option outside its range, or `lora` together with `frozen`.
        ConfigError: An unknown option of `lora`, or one outside its range.
    """

    mean = std = (127.5, 127.5, 127.5)
    free_statistics = True

    def __init__(
        self,
        variant: str | EncoderConfig | Mapping[str, Any],
        layers: Sequence[int] = (-1,),
        *,
        norm: bool = False,
        window: int | None = None,
        global_blocks: Sequence[int] = (),
        rope: str | int = "extrapolate",
        pos_embed: str = "bilinear",
        patch_size: int | None = None,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        frozen: bool | int = False,
        lora: Mapping[str, Any] | None = None,
        weights: str | None = None,
        adapt: Sequence[str] = (),
        upsampling: Upsampling = "bilinear",
    ) -> None:
        super().__init__()
        self.lora = None if lora is None else build_options(LoraOptions, lora, "lora")
        if self.lora is not None and frozen is not False:
            raise OptionError(
                f"frozen {frozen} and lora contradict each other: lora freezes the whole encoder and trains adapters; "
                "use only one of them"
            )
        config = get_variant(variant)
        if patch_size is not None:
            config = replace(config, patch_size=patch_size, image_size=patch_size * config.grid_size)
        # an encoder whose weights are loaded is built on the meta device, so that there is never a second copy
        with torch.device("meta" if weights is not None else torch.get_default_device()):
            self.encoder = VisionTransformer(
                config,
                window=window,
                global_blocks=global_blocks,
                rope=rope,
                pos_embed=pos_embed,
                drop_path=drop_path,
                checkpointing=checkpointing,
            )
        self.origin: Origin | None = None
        if weights is not None:
            from pe_spatial.backbones.weights import load_weights, origin_of

            print_log(f"Encoder weights: {load_weights(self.encoder, weights, adapt)}", "current")
            _warn_of_other_options(self.encoder)
            self.origin = None if self.lora is None else origin_of(weights, self.encoder.state_dict())
        self.config, self.patch_size = config, config.patch_size
        self.depth, self.image_size = config.depth, _training_grid(config) * config.patch_size
        self.upsampler: Interpolation | None = None
        self.select_layers(layers)
        self.norm = norm
        self.num_layers = self.config.depth + 1
        self.frozen_layers = _count_frozen(frozen, self.num_layers)
        if self.lora is not None:
            add_adapters(self.encoder.transformer.resblocks[: max(self.layers) + 1], self.lora)
        self.fix_parameters()
        add_upsampler(self, upsampling)
        self.train()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map normalized images [B, 3, H, W] to one [B, C, H / stride, W / stride] for every entry of `layers`.

        The memory order of the maps is B, h, w, C; without upsampling they are views of tokens.

        Raises:
            OptionError: H or W is not a multiple of the patch size.
        """
        return self._maps(x, self.encoder.forward_features(x, self.layers, self.norm))

    def _maps(self, x: Tensor, tokens: Sequence[Tensor]) -> tuple[Tensor, ...]:
        grid, skip = self.encoder.grid(x), int(self.encoder.has_cls)
        maps = tuple(t[:, skip:].transpose(1, 2).unflatten(2, grid) for t in tokens)
        return maps if self.upsampler is None else self.upsampler(x, maps)

    def select_layers(self, layers: Sequence[int]) -> None:
        """Return the maps of other blocks from now on; which parameters are trained stays as it is.

        Args:
            layers: Blocks from 0, or from the end if negative.

        Raises:
            OptionError: No block, or one that does not exist.
        """
        self.layers = tuple(resolve_blocks(layers, self.config.depth))
        if not self.layers:
            raise OptionError("layers is empty; give at least one block, for example [-1] for the last")
        self.channels = (self.config.width,) * len(self.layers)
        stride = self.patch_size if self.upsampler is None else self.upsampler.stride
        self.strides = (stride,) * len(self.layers)

    def settings(self) -> dict[str, Any]:
        """What the maps depend on besides weights and layers, by the names of options."""
        encoder, grid = self.encoder, self.config.grid_size
        shape = {name: value for name, value in asdict(self.config).items() if name != "name"}
        everywhere = [number for number, windowed in enumerate(encoder.windowed) if not windowed]
        return {
            "type": type(self).__name__,
            **shape,
            "window": encoder.window,
            "global_blocks": everywhere if encoder.window is not None else [],
            "rope": {None: "extrapolate", grid: "interpolate"}.get(encoder.rope_reference, encoder.rope_reference),
            "pos_embed": encoder.pos_embed,
            "norm": self.norm,
        } | ({} if self.upsampler is None else {"upsampling": self.upsampler.settings()})

    @property
    def pools(self) -> tuple[str, ...]:
        """What the encoder has, besides the mean of a map, to stand for a whole image: `cls`, `attention`."""
        has_pooling = self.encoder.attn_pool is not None
        return ("cls",) * self.encoder.has_cls + ("attention",) * has_pooling

    def class_tokens(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images [B, 3, H, W] to the class token [B, C] after every entry of `layers`.

        Raises:
            OptionError: The encoder has none; or as of `forward`.
        """
        return tuple(tokens[:, 0] for tokens in self._tokens_with_class(x))

    def maps_and_class_tokens(self, x: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What `forward` and `class_tokens` return, in one pass.

        Raises:
            OptionError: As of `class_tokens`.
        """
        tokens = self._tokens_with_class(x)
        return self._maps(x, tokens), tuple(each[:, 0] for each in tokens)

    def _tokens_with_class(self, x: Tensor) -> Sequence[Tensor]:
        if "cls" not in self.pools:
            raise OptionError(f"{self.config.name} has no class token here: attention in windows removes it")
        return self.encoder.forward_features(x, self.layers, self.norm)

    def attention_pooled(self, x: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to PE-Core's own embedding [B, D]: pooled by attention, and projected.

        Raises:
            OptionError: The encoder has no such pooling; or as of `forward`.
        """
        if "attention" not in self.pools:
            raise OptionError(f"{self.config.name} has no attention pooling; use a PE-Core encoder")
        return self.encoder(x)

    def layer_of(self, parameter_name: str) -> int:
        """Return the layer of a parameter for layer-wise decay: 0 for embeddings, 1 to depth for blocks.

        What follows the last block counts as part of it.

        Args:
            parameter_name: As in `named_parameters()` of this module.

        Raises:
            KeyError: The name is none of this module's.
        """
        prefix, _, name = parameter_name.partition(".")
        part, _, rest = name.partition(".")
        if prefix == "encoder":
            if part in ("class_embedding", "positional_embedding", "conv1", "ln_pre"):
                return 0
            if part in ("ln_post", "attn_pool", "proj"):
                return self.config.depth
            if part == "transformer":
                return int(rest.split(".")[1]) + 1
        if prefix == "upsampler":
            return self.config.depth
        raise KeyError(f"{parameter_name!r} is not a parameter of PEBackbone; names begin with 'encoder.'")

    def frozen_state(self) -> dict[str, Tensor]:
        """The state dict of the encoder without its adapters, in the official layout."""
        return {key: tensor for key, tensor in self.encoder.state_dict().items() if not is_adapter(key)}

    def drop_unused(self) -> None:
        """Free the blocks after the last of `layers`, and PE-Core's head; `norm` must be off."""
        self.encoder.transformer.resblocks = self.encoder.transformer.resblocks[: max(self.layers) + 1]
        self.encoder.attn_pool = self.encoder.ln_post = self.encoder.proj = None

    def merge_adapters(self) -> None:
        """Put what the adapters have learned into the encoder, which is a plain one then: its maps stay the same."""
        merge_adapters(self.encoder.transformer.resblocks)
        self.lora = self.origin = None

    def train(self, mode: bool = True) -> PEBackbone:
        """Switch training mode; frozen blocks stay in evaluation mode."""
        super().train(mode)
        for block in self.encoder.transformer.resblocks[: max(self.frozen_layers - 1, 0)]:
            block.eval()
        return self

    def fix_parameters(self) -> None:
        """Stop the gradient of parameters that are frozen or that no map depends on, as at construction."""
        unused = {"attn_pool", "proj"} | (set() if self.norm else {"ln_post"})
        if not self.encoder.has_cls:
            unused.add("class_embedding")
        last = max(self.layers) + 1
        for name, parameter in self.encoder.named_parameters(prefix="encoder"):
            layer = self.layer_of(name)
            if self.lora is not None:
                parameter.requires_grad_(is_adapter(name))
            elif layer < self.frozen_layers or name.split(".")[1] in unused or ("resblocks" in name and layer > last):
                parameter.requires_grad_(False)


def _training_grid(config: EncoderConfig) -> int:
    """Side of the square images that the weights were last trained on, in patches."""
    return TRAINED_WITH[config.name].grid if config.name in TRAINED_WITH else config.grid_size


def _warn_of_other_options(encoder: VisionTransformer) -> None:
    """Say if trained weights are used in another way than they were trained; that is allowed, for training further."""
    training = TRAINED_WITH.get(encoder.config.name)
    if training is None:
        return
    with torch.device("meta"):
        trained = VisionTransformer(encoder.config, **training.options)
    names = ("windowed", "window", "rope_reference", "pos_embed")
    if any(getattr(encoder, name) != getattr(trained, name) for name in names):
        options = ", ".join(f"{key}: {value}" for key, value in training.options.items())
        print_log(
            f"{encoder.config.name} was trained with {options}; with other options its features are not what its "
            "weights were trained for",
            "current",
            logging.WARNING,
        )


def _count_frozen(frozen: bool | int, num_layers: int) -> int:
    """Return how many layers are frozen: the embeddings are one, each block is one."""
    if isinstance(frozen, bool):
        return num_layers if frozen else 0
    if not 0 <= frozen < num_layers:
        raise OptionError(f"frozen {frozen} exceeds the {num_layers - 1} blocks; use True to freeze everything")
    return frozen + 1
