"""Perception Encoders as backbones of Detectron2. The only file that imports it, and nothing else imports this file.

Importing it registers `build_pe_backbone` (maps of the encoder) and `build_pe_feature_pyramid` (the simple feature
pyramid on its last map) with `BACKBONE_REGISTRY`; `add_pe_config` adds their settings to a YAML config. For
LazyConfig there are `feature_pyramid`, `mask_rcnn` and `LayerDecay`. `configs/detectron2` holds an
example of each.

The state dict of these backbones is that of the official Detectron2 detectors without their rotary tables. So a
released `mask_rcnn_PE*.pth` loads with Detectron2's own checkpointer, and `tools/convert_weights.py` takes what
Detectron2 trained to our `MaskRCNN` and back.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pe_spatial.backbones import EncoderConfig, PEBackbone, SimpleFeaturePyramid
from pe_spatial.backbones.weights import Layout, to_official
from pe_spatial.backbones.weights import to_detectron2 as encoder_to_detectron2

_INSTALL = (
    "pip install --no-build-isolation 'detectron2 @ git+https://github.com/facebookresearch/detectron2' "
    "(its build needs the torch that is installed here)"
)

try:
    import detectron2
    from detectron2.config import CfgNode, LazyCall
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import BACKBONE_REGISTRY
    from detectron2.modeling.backbone import Backbone
except ImportError as error:
    raise ImportError(f"Detectron2 cannot be imported ({error}); install it with {_INSTALL}") from error

if not hasattr(Backbone, "padding_constraints"):
    # the version has been 0.6 since 2021, so what is asked for is the property
    raise ImportError(
        f"Detectron2 {detectron2.__version__} in {detectron2.__path__[0]} is too old: its backbones cannot ask for "
        f"square padding, which came with ViTDet in June 2022; replace it with {_INSTALL}"
    )

PIXEL_MEAN = PIXEL_STD = (127.5, 127.5, 127.5)  # RGB; the released detectors were trained with 127 instead


class PE(Backbone):
    """An encoder as a Detectron2 backbone.

    Args:
        body: The encoder. Its maps are named after their blocks: `block11` is the output of the twelfth.
    """

    def __init__(self, body: PEBackbone) -> None:
        super().__init__()
        self.body = body
        self._out_features = [f"block{layer}" for layer in body.layers]
        self._out_feature_channels = dict(zip(self._out_features, body.channels, strict=True))
        self._out_feature_strides = dict(zip(self._out_features, body.strides, strict=True))
        self.register_state_dict_post_hook(_name_officially)
        self.register_load_state_dict_pre_hook(_name_as_here)

    @property
    def size_divisibility(self) -> int:
        """Pixels of which H and W are multiples."""
        return self.body.patch_size

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalized images [B, 3, H, W] to one [B, C, h, w] for every block that is asked for."""
        return dict(zip(self._out_features, self.body(x), strict=True))


class PEFeaturePyramid(SimpleFeaturePyramid, Backbone):
    """The simple feature pyramid on the one map of an encoder: p2…p6 of strides 4 to 64.

    Args:
        net: The encoder.
        out_channels: Channels of the five maps.
        square_pad: Side in pixels of the square that images are padded to; 0 pads them to whole cells of p5.

    Raises:
        ValueError: Strides that Detectron2's pooler does not take, or a square of no whole cells.
    """

    def __init__(self, net: PE, out_channels: int = 256, square_pad: int = 0) -> None:
        patch = net.body.patch_size
        if patch & (patch - 1):
            raise ValueError(
                f"patches of {patch} pixels: Detectron2 pools from maps whose strides are powers of 2; set "
                "patch_size=16 (the weights are resampled while they are loaded)"
            )
        super().__init__(net.body.channels[-1], patch, out_channels)
        self.net = net
        self.square_pad = square_pad
        if square_pad < 0 or square_pad % self.size_divisibility:
            raise ValueError(
                f"square_pad {square_pad} is not a multiple of {self.size_divisibility}, the stride of p5; round it up"
            )
        self._out_features = [f"p{level}" for level in range(2, 7)]
        self._out_feature_channels = dict(zip(self._out_features, self.channels, strict=True))
        self._out_feature_strides = dict(zip(self._out_features, self.strides, strict=True))

    @property
    def size_divisibility(self) -> int:
        """Pixels of which H and W are multiples."""
        return 2 * self.net.body.patch_size

    @property
    def padding_constraints(self) -> dict[str, int]:
        """How Detectron2 pads a batch."""
        return {"size_divisibility": self.size_divisibility, "square_size": self.square_pad}

    # images come in and named maps go out, as of every backbone of Detectron2
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Map normalized images [B, 3, H, W] to the five maps, finest first."""
        return dict(zip(self._out_features, super().forward(list(self.net(x).values())), strict=True))


# --- state dicts ------------------------------------------------------------------------------------------------------
_INNER = "body.encoder."


def _name_officially(module: PE, tensors: dict[str, Tensor], prefix: str, _: object) -> None:
    """Rename the encoder in a state dict to the official detectors' layout; they know no class token in windows."""
    inner = prefix + _INNER
    encoder = {key.removeprefix(inner): tensors.pop(key) for key in list(tensors) if key.startswith(inner)}
    if module.body.encoder.has_cls:  # no other code has this case: keep the names of the encoder
        tensors.update({prefix + key: tensor for key, tensor in encoder.items()})
    else:
        tensors.update(encoder_to_detectron2(encoder, prefix)[0])


def _name_as_here(module: PE, tensors: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Undo `_name_officially`. What the layout has no place for keeps the module's own value."""
    theirs = {key: tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
    encoder, _dropped = to_official(theirs, Layout("Detectron2", prefix))
    if not encoder:
        return
    own = module.body.encoder.state_dict()
    table = encoder.get("positional_embedding")
    if "class_embedding" in own and table is not None and len(table) == len(own["positional_embedding"]) - 1:
        encoder["positional_embedding"] = torch.cat([own["positional_embedding"][:1].to(table), table])
    if not module.body.encoder.has_cls:
        unused = own.keys() - encoder_to_detectron2(own, "")[0].keys()
        encoder = {**{key: own[key] for key in unused}, **encoder}
    tensors.update({prefix + _INNER + key: tensor for key, tensor in encoder.items()})


# --- YAML -------------------------------------------------------------------------------------------------------------
def add_pe_config(cfg: CfgNode) -> None:
    """Add the node `MODEL.PE`: arguments of `PEBackbone`, with the values of the official detectors.

    `ENCODER` may hold fields of `EncoderConfig` in which an encoder of your own differs from `VARIANT`.
    """
    node = cfg.MODEL.PE = CfgNode()
    node.VARIANT = "PE-Spatial-B16-512"
    node.ENCODER = CfgNode(new_allowed=True)
    node.WEIGHTS = None
    node.LAYERS = [-1]
    node.NORM = False
    node.PATCH_SIZE = 16
    node.WINDOW = 32
    node.GLOBAL_BLOCKS = []
    node.ROPE = "interpolate"
    node.POS_EMBED = "tile"
    node.DROP_PATH = 0.0
    node.CHECKPOINTING = False
    node.FROZEN = None  # True, or a number of blocks
    # of the pyramid
    node.OUT_CHANNELS = 256
    node.SQUARE_PAD = 0


@BACKBONE_REGISTRY.register()
def build_pe_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PE:
    """Build the encoder of `cfg.MODEL.PE`.

    Raises:
        KeyError: The config has no such node.
        ValueError: Images of other than 3 channels.
    """
    if "PE" not in cfg.MODEL:
        raise KeyError("the config has no node MODEL.PE; call add_pe_config(cfg) before cfg.merge_from_file(...)")
    if input_shape.channels != 3:
        raise ValueError(f"the encoder takes RGB images, not {input_shape.channels} channels; check MODEL.PIXEL_MEAN")
    node = cfg.MODEL.PE
    options = {
        key.lower(): value for key, value in node.items() if key not in ("ENCODER", "OUT_CHANNELS", "SQUARE_PAD")
    }
    if node.ENCODER:
        options["variant"] = {"base": node.VARIANT, **node.ENCODER}
    return PE(PEBackbone(**{**options, "frozen": node.FROZEN or False}))


@BACKBONE_REGISTRY.register()
def build_pe_feature_pyramid(cfg: CfgNode, input_shape: ShapeSpec) -> PEFeaturePyramid:
    """Build the encoder of `cfg.MODEL.PE` and the pyramid on it; see `build_pe_backbone`."""
    net = build_pe_backbone(cfg, input_shape)
    return PEFeaturePyramid(net, cfg.MODEL.PE.OUT_CHANNELS, cfg.MODEL.PE.SQUARE_PAD)


# --- LazyConfig -------------------------------------------------------------------------------------------------------
def feature_pyramid(encoder: Mapping[str, Any], out_channels: int = 256, square_pad: int = 0) -> Any:  # noqa: ANN401
    """A lazy `PEFeaturePyramid`.

    Args:
        encoder: Arguments of `PEBackbone`.
        out_channels: See `PEFeaturePyramid`.
        square_pad: See `PEFeaturePyramid`.
    """
    net = LazyCall(PE)(body=LazyCall(PEBackbone)(**encoder))
    return LazyCall(PEFeaturePyramid)(net=net, out_channels=out_channels, square_pad=square_pad)


def mask_rcnn(backbone: Any, num_classes: int = 80) -> Any:  # noqa: ANN401 - lazy objects have no type of their own
    """A lazy Mask R-CNN with ViTDet's heads, those of the released detectors, on RGB images of mean = std = 127.5.

    Args:
        backbone: a lazy backbone with maps p2…p6.
        num_classes: K.
    """
    from detectron2 import model_zoo  # needs pkg_resources, which setuptools 81 dropped; only this function wants it

    model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
    model.backbone = backbone
    model.roi_heads.num_classes = num_classes
    model.pixel_mean, model.pixel_std, model.input_format = list(PIXEL_MEAN), list(PIXEL_STD), "RGB"
    return model


class LayerDecay:
    """Factor of a parameter's learning rate by its depth, as `lr_factor_func` of Detectron2's optimizer settings.

    The neck and the heads have factor 1, the last block `decay`, and each layer before it `decay` times that of the
    next, down to the embeddings.

    Args:
        variant: Encoder of the model; see `pe_spatial.backbones.get_variant`.
        decay: Factor from one layer to the next.
        root: Name of the `PE` in the model.
    """

    def __init__(
        self, variant: str | EncoderConfig | Mapping[str, Any], decay: float, root: str = "backbone.net"
    ) -> None:
        if not 0 < decay <= 1:
            raise ValueError(f"decay {decay} must be above 0 and at most 1; 1 gives every layer the same rate")
        with torch.device("meta"):
            self._body = PEBackbone(variant)
        self.decay = decay
        self._prefix = root + ".body."

    def __call__(self, name: str) -> float:
        """Factor of the parameter of that name in the model."""
        if not name.startswith(self._prefix):
            return 1.0
        return self.decay ** (self._body.num_layers - self._body.layer_of(name.removeprefix(self._prefix)))
