"""Which tokens of a picture belong together, as weights that mix what is known of each.

Letters: B pictures, N tokens, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_spatial.common.errors import OptionError

BETA, GAMMA = 1.2, 3.0  # ProxyCLIP's


def check_affinity_options(beta: float, gamma: float) -> None:
    """Refuse factors that leave no weights.

    Raises:
        OptionError: `beta` below 0, or `gamma` not above 0.
    """
    if not 0 <= beta < float("inf"):
        raise OptionError(f"beta {beta} must be 0 or more; ProxyCLIP uses {BETA}, and 1.0 to 1.6 are usual")
    if not 0 < gamma < float("inf"):
        raise OptionError(f"gamma {gamma} must be above 0; ProxyCLIP uses {GAMMA}, and 2 to 5 are usual")


def proxy_affinity(features: Tensor, beta: float = BETA, gamma: float = GAMMA, batch_mean: bool = False) -> Tensor:
    """The affinity of ProxyCLIP (Lan et al., 2024, equation 5): cosines above a share of their mean, as a softmax.

    A token always belongs to itself: otherwise a picture of one color would leave no weight at all.

    Args:
        features: Tokens [B, N, C].
        beta: Cosines below `beta` times their mean count as unrelated.
        gamma: Of the softmax; more keeps to the most similar tokens.
        batch_mean: Take the mean of the whole batch, as the authors' code does. That of each picture lets a batch give
            what its pictures give alone.

    Returns:
        float32 [B, N, N]; rows sum to 1.
    """
    unit = F.normalize(features.float(), dim=-1)
    cosines = unit @ unit.transpose(1, 2)
    mean = cosines.mean() if batch_mean else cosines.mean(dim=(1, 2), keepdim=True)
    scores = gamma * (cosines - beta * mean)
    itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return scores.masked_fill((scores < 0) & ~itself, float("-inf")).softmax(dim=-1)
