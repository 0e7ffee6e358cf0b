"""The loss by which pictures and texts find each other."""

import torch.nn.functional as F
from torch import Tensor


def mutual_cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """The mean of both cross entropies, of columns for rows and of rows for columns.

    Args:
        logits: [B, T].
        truth: Bool [B, T], at least one True in every row and column; several share the target equally.
    """
    rows, columns = (F.normalize(table.float(), p=1, dim=1) for table in (truth, truth.T))
    return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, columns)) / 2
