"""Visual tokens in the prompt of a language model."""

from torch import Tensor

from pe_spatial.common.errors import OptionError


def place_tokens(embedded: Tensor, places: Tensor, tokens: Tensor) -> Tensor:
    """Put visual tokens into the places of an embedded prompt, in order, as PerceptionLM of transformers does.

    Args:
        embedded: [B, L, D], what the language model's embedding gives for the prompts.
        places: bool [B, L], where a visual token belongs: `ids == config.image_token_id`.
        tokens: [T, n, D] of all pictures or videos of the prompts, one after the other; moved to the device and type of
            `embedded`.

    Returns:
        [B, L, D], for `inputs_embeds`.

    Raises:
        OptionError: Other shapes, or more or fewer places than tokens.
    """
    dim = embedded.shape[-1]
    if embedded.ndim != 3 or places.shape != embedded.shape[:2] or tokens.ndim != 3 or tokens.shape[2] != dim:
        raise OptionError(
            f"shapes do not fit: embedded {list(embedded.shape)}, places {list(places.shape)}, tokens "
            f"{list(tokens.shape)}; pass [B, L, D], [B, L] and [T, n, D] with one D"
        )
    count, needed = tokens.shape[0] * tokens.shape[1], int(places.sum())
    if count != needed:
        raise OptionError(
            f"{count} visual tokens for {needed} places of the prompt; write as many places as "
            f"`PLMVision.count_tokens` returns"
        )
    flat = tokens.flatten(0, 1).to(embedded.device, embedded.dtype)
    return embedded.masked_scatter(places.to(embedded.device)[..., None], flat)
