"""Several polygons as one, as Ultralytics' converter joins them."""

from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from pe_spatial.data.formats.content import Points


def join_polygons(parts: Sequence[Points]) -> list[tuple[Decimal, Decimal]]:
    """One polygon that goes round every part, and between them along lines without width.

    Every part is entered at the corner that is nearest to those joined so far, gone round, and left at the same corner.

    Args:
        parts: At least one.
    """
    joined = list(parts[0])
    for part in parts[1:]:
        before, new = (np.array(points, dtype=float) for points in (joined, part))
        distances = ((before[:, None] - new[None]) ** 2).sum(axis=-1)  # [N, M]
        leave, enter = (int(n) for n in np.unravel_index(distances.argmin(), distances.shape))
        loop = [*part[enter:], *part[: enter + 1]]
        joined = [*joined[: leave + 1], *loop, *joined[leave:]]
    return joined
