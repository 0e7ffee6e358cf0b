"""Another encoder in the place of that of a model's size."""

from collections.abc import Sequence

from pe_spatial.backbones.contract import sketch
from pe_spatial.backbones.named import named_encoder
from pe_spatial.common.errors import OptionError
from pe_spatial.own.data import Section
from pe_spatial.own.request import Request
from pe_spatial.training.config import compose_config


def other_encoder(request: Request, parts: Sequence[str]) -> tuple[Section, int, tuple[str, ...]]:
    """The settings of a recipe with the encoder of a request, its patch size, and what to tell of it.

    The encoder is frozen where that of the recipe is; the pictures get its statistics and a multiple of its patches.

    Args:
        request: With `encoder`.
        parts: Config files of the recipe.

    Raises:
        UserError: No such encoder, or adapters on one that takes none.
    """
    assert request.encoder is not None
    backbone = named_encoder(request.encoder, None if request.weights is None else "none")
    is_foreign = backbone["type"] == "TimmBackbone"
    if request.tune == "lora" and is_foreign:
        raise OptionError(
            f"tune lora: adapters work only with a Perception Encoder, not with {request.encoder}; use tune frozen"
        )
    recipe = compose_config(parts, {}, (), ())
    backbone["layers"] = [-1]
    backbone["frozen"] = recipe.model.backbone.get("frozen", False)
    drawing = sketch(backbone)
    patch = int(drawing.patch_size)
    preprocessor: Section = {"size_divisor": patch}
    if not drawing.free_statistics:
        preprocessor |= {"mean": list(drawing.mean), "std": list(drawing.std)}
    settings: Section = {"model": {"backbone": {"_delete_": True, **backbone}, "data_preprocessor": preprocessor}}
    told = [f"encoder: {request.encoder}, {drawing.channels[-1]} channels at 1/{drawing.strides[-1]} of the image"]
    if request.weights in (None, "none") and is_foreign:
        told.append(f"weights: random, because nothing is downloaded; give a file of {request.encoder} with --weights")
    side = recipe.get("_image_size")
    if request.image_size is None and side is not None and side % patch:
        settings["_image_size"] = max(round(side / patch), 1) * patch
        told.append(f"image size: {settings['_image_size']} instead of {side}, a multiple of the patch size {patch}")
    return settings, patch, tuple(told)
