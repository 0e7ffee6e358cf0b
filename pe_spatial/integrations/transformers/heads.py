"""A head of transformers on a backbone whose weights it takes over."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedConfig

from pe_spatial.common.errors import OptionError
from pe_spatial.integrations.transformers.backbone import PEBackboneForTransformers
from pe_spatial.integrations.transformers.config import PEConfig

Head = TypeVar("Head", bound=nn.Module)

_MAPS, _PYRAMID = "form='maps'", "form='pyramid'"
_TOKENS, _PATCHES = "form='tokens', first_token=True", "form='tokens', first_token=False"
# model type of a head -> what it can use of the backbone, as measured by the tests; other heads are not checked
USABLE: dict[str, tuple[str, ...]] = {
    "upernet": (_MAPS, _PYRAMID),
    "mask2former": (_PYRAMID, _MAPS),
    "maskformer": (_PYRAMID, _MAPS),
    "rt_detr": (_PYRAMID,),
    "rt_detr_v2": (_PYRAMID,),
    "d_fine": (_PYRAMID,),
    "deformable_detr": (_PYRAMID, _MAPS),
    "detr": (_MAPS, _PYRAMID),
    "conditional_detr": (_MAPS, _PYRAMID),
    "dab_detr": (_MAPS, _PYRAMID),
    "dpt": (_TOKENS,),
    "depth_anything": (_TOKENS,),
    "prompt_depth_anything": (_TOKENS,),
    "zoedepth": (_TOKENS,),
    "vitpose": (_PATCHES,),
}


def with_backbone(
    model_class: Callable[[Any], Head], config: PreTrainedConfig, backbone: PEBackboneForTransformers
) -> Head:
    """Build a head of transformers on a backbone, with the weights of the backbone.

    Heads never load weights of a backbone: `Head(config)` draws it at random. The head gets copies; the given backbone
    stays as it is.

    Args:
        model_class: Of the head, such as `UperNetForSemanticSegmentation`.
        config: Of the head; its `backbone_config` is replaced by that of the backbone.
        backbone: Whose options and weights the head takes.

    Raises:
        OptionError: The head cannot use this form of the backbone, or has no place for one.
    """
    check_form(config.model_type, backbone.config)
    config = deepcopy(config)
    config.backbone_config = deepcopy(backbone.config)
    model = model_class(config)
    places = [module for module in model.modules() if isinstance(module, PEBackboneForTransformers)]
    if len(places) != 1:
        raise OptionError(
            f"{type(model).__name__} holds {len(places)} Perception Encoders instead of 1; it does not build a "
            "backbone from backbone_config"
        )
    places[0].load_state_dict(backbone.state_dict())
    return model


def check_form(head: str, config: PEConfig) -> None:
    """Refuse a form of the backbone that a head cannot use.

    Args:
        head: Model type of the head; nothing is known about those that are not in the table of docs/transformers.md.
        config: Of the backbone.

    Raises:
        OptionError: It cannot.
    """
    form = f"form={config.form!r}"
    if config.form == "tokens":
        form += f", first_token={config.first_token!r}"
    usable = USABLE.get(head, (form,))
    if form not in usable:
        raise OptionError(
            f"{head} cannot use a backbone with {form}; build the backbone with {' or with '.join(usable)}"
        )
    if head == "vitpose" and (isinstance(config.image_size, int) or isinstance(config.patch_size, int)):
        raise OptionError(
            f"vitpose reads image_size and patch_size as pairs, not {config.image_size} and {config.patch_size}; build "
            "the backbone with image_size=(256, 192), patch_size=(16, 16)"
        )
