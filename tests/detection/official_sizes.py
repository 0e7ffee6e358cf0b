"""The official formulas of sizes, written down once more; a side that would be empty has a pixel."""

import numpy as np


def random_pairs(seed, count=1000):
    """Sizes (h, w): half of them COCO's, a quarter of any shape, and some squares and thin ones."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(300, 641, (count, 2))
    pairs[::4] = rng.integers(1, 3000, (len(pairs[::4]), 2))
    pairs[1::8, 0] = rng.integers(1, 30, len(pairs[1::8]))
    pairs[5::16, 1] = rng.integers(1, 30, len(pairs[5::16]))
    pairs[13::16] = pairs[13::16, :1]
    return [(int(h), int(w)) for h, w in pairs]


def detectron2(h, w, short_edge, max_size):
    """`ResizeShortestEdge.get_output_shape`."""
    scale = short_edge / min(h, w)
    new = [short_edge * 1.0, scale * w] if h < w else [scale * h, short_edge * 1.0]
    if max(new) > max_size:
        scale = max_size * 1.0 / max(new)
        new = [side * scale for side in new]
    height, width = (max(int(side + 0.5), 1) for side in new)
    return height, width


def resize_scale(h, w, target, scale):
    """`ResizeScale`."""
    scaled = np.multiply(target, scale)
    factor = np.minimum(scaled[0] / h, scaled[1] / w)
    height, width = np.round(np.multiply((h, w), factor)).astype(int)
    return max(int(height), 1), max(int(width), 1)


def deta(h, w, size, max_size):
    """`get_size_with_aspect_ratio`."""
    least, most = float(min(w, h)), float(max(w, h))
    if max_size is not None and most / least * size > max_size:
        size = max(int(round(max_size * least / most)), 1)
    if (w <= h and w == size) or (h <= w and h == size):
        return h, w
    return (int(size * h / w), size) if w < h else (size, int(size * w / h))
