"""How maps of a mask teacher are stored: small integers, of all channels or of their principal ones.

Training uses nothing of a map but the cosines between its tokens. A rotation of the channels does not change them, and
moving the map (flips, crops, interpolation between tokens) commutes with it. So a map may be rotated onto its principal
axes; the masks of 1,024 prompts are those of a few dozen segments over and over, so most axes are nearly zero.
The length of a token's vector does not change a cosine either. It is stored separately, so that short vectors are not
rounded to zero.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.alignment.losses import target_similarity
from pe_spatial.common.errors import OptionError

Record = dict[str, Tensor]


class MapCodec:
    """Codes maps [K, h, w] as integers with one float32 scale per channel and one length per token.

    Args:
        rank: Keep that many principal channels, strongest first, in 16 bits, for the first of them outweigh the others
            by far. None keeps all channels as they are, in 8 bits.
    """

    def __init__(self, rank: int | None = None) -> None:
        if rank is not None and rank < 1:
            raise OptionError(f"rank {rank} must be at least 1; None keeps all channels")
        self.rank = rank
        self.dtype = torch.int8 if rank is None else torch.int16

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {"dtype": str(self.dtype).removeprefix("torch."), "rank": self.rank}

    def encode(self, features: Tensor) -> Record:
        """`codes` [R, h, w], `scales` [R] and `lengths` [h, w] of a map [K, h, w]; R = K or the rank.

        Raises:
            OptionError: The map has values that are not finite.
        """
        if not features.isfinite().all():
            raise OptionError("the teacher's map has NaN or infinite values; check its weights and its precision")
        lengths = features.float().norm(dim=0)
        unit = features.float() / lengths.clamp_min(torch.finfo(torch.float32).tiny)
        kept = unit if self.rank is None else principal_channels(unit, self.rank)
        scales = kept.abs().amax((1, 2)).clamp_min(1e-12) / torch.iinfo(self.dtype).max
        codes = (kept / scales[:, None, None]).round().to(self.dtype)
        return {"codes": codes.cpu(), "scales": scales.cpu(), "lengths": lengths.cpu()}

    @staticmethod
    def decode(record: Record) -> Tensor:
        """The float32 map [R, h, w]."""
        return record["codes"].float() * record["scales"][:, None, None] * record["lengths"]


def principal_channels(features: Tensor, rank: int) -> Tensor:
    """Rotate the channels of a map [K, h, w] so that the first `rank` (returned) hold as much of it as can be.

    Inner products between tokens are those of the map, up to what the other channels hold. Channels beyond the number
    of tokens are 0.
    """
    tokens = features.flatten(1).T.double()  # [N, K]
    energies, axes = torch.linalg.eigh(tokens @ tokens.T)  # ascending; far cheaper than a decomposition of the map
    kept = (axes * energies.clamp_min(0).sqrt()).flip(1)[:, :rank].T.float()  # [<=R, N]
    return F.pad(kept, (0, 0, 0, rank - len(kept))).unflatten(1, features.shape[1:])


def added_error(features: Tensor, decoded: Tensor, temperature: float = 20.0) -> tuple[float, float]:
    """Mean and largest difference that coding makes in the matrix that the locality loss compares with."""
    first, second = (_targets(item, temperature) for item in (features, decoded.to(features.device)))
    difference = (first - second).abs()
    return float(difference.mean()), float(difference.max())


def _targets(features: Tensor, temperature: float) -> Tensor:
    tokens = F.normalize(features.flatten(1).float(), dim=0)
    return target_similarity((tokens.T @ tokens).clamp(-1, 1), temperature)
