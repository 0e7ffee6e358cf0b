"""What stands for a whole image, beside its map: the mean of the map, or a class token."""

from typing import Any, Literal

from torch import Tensor

from pe_spatial.common.errors import OptionError

Source = Literal["mean", "cls"]
SOURCES = ("mean", "cls")


def has_class_token(backbone: Any) -> bool:  # noqa: ANN401 - any registered backbone
    """Whether a backbone gives its class token together with its maps."""
    return "cls" in getattr(backbone, "pools", ()) and hasattr(backbone, "maps_and_class_tokens")


def require_class_token(backbone: Any, user: str) -> None:  # noqa: ANN401 - any registered backbone
    """Refuse a backbone without a class token.

    Raises:
        OptionError: It has none, or does not give it.
    """
    if not has_class_token(backbone):
        raise OptionError(
            f"{user}: {type(backbone).__name__} has no class token; set summary_source: mean, the mean of its tokens"
        )


def map_and_summary(backbone: Any, images: Tensor, source: Source) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """The map [B, C, h, w] and the summary [B, C] of images [B, 3, H, W], in one pass.

    Args:
        backbone: With one map.
        images: Normalized as it asks.
        source: `cls` needs a backbone with a class token.
    """
    if source == "cls":
        maps, tokens = backbone.maps_and_class_tokens(images)
        return maps[0], tokens[0]
    features = backbone(images)[0]
    return features, features.mean(dim=(2, 3))
