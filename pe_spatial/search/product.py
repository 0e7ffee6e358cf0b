"""The rows of a matrix with the largest scalar products, exactly and in a memory that does not grow with the matrix.

Letters: N rows, Q queries, D channels, K results of a query, P pairs of a query and a row.
"""

import numpy as np
from numpy.typing import NDArray

CHUNK_BYTES = 64 * 2**20  # of rows in float32; what is made of them takes at most about as much again
MANY_ROWS = 10_000_000  # up to which a scan of all rows is advised

_QUERIES = 256  # at once
_PAIR_FLOATS = 16  # that a pair takes where every row is a candidate, as where all are equal
_FEW = 4  # candidates per result, above which a chunk's own K-th score narrows them

Best = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]  # query, row and score of pairs


def nearest(
    embeddings: NDArray[np.floating], queries: NDArray[np.floating], top_k: int, chunk_bytes: int = CHUNK_BYTES
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The rows with the largest scalar products with each query.

    A product in float32 finds the candidates: all rows that its rounding error may hide among the first. The scores
    of these are computed again in float64, row by row. So neither the sizes of the chunks nor the order of additions
    in a matrix product change a result, and equal rows have equal scores; of those the one with the lower number comes
    first.

    Args:
        embeddings: [N, D] of any floating type, mapped or in memory; no row is longer than 1 (but for its rounding).
        queries: [Q, D].
        top_k: K; where there are fewer rows, all of them are returned.
        chunk_bytes: Of the rows that are compared at a time, in float32; see `CHUNK_BYTES`. The results come on top.

    Returns:
        Scores float64 [Q, K], the largest first, and the numbers of the rows, int64 [Q, K].
    """
    count = min(top_k, len(embeddings))
    found = [
        _nearest_of_some(embeddings, np.ascontiguousarray(queries[i : i + _QUERIES], np.float32), count, chunk_bytes)
        for i in range(0, len(queries), _QUERIES)
    ]
    if not found:
        return np.empty((0, count)), np.empty((0, count), np.int64)
    return np.concatenate([scores for scores, _ in found]), np.concatenate([rows for _, rows in found])


def _nearest_of_some(
    embeddings: NDArray[np.floating], queries: NDArray[np.float32], count: int, chunk_bytes: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    size = max(chunk_bytes // 4 // max(embeddings.shape[1], _PAIR_FLOATS * len(queries)), 1)
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    # of a product of D terms in float32, for both sides of a comparison, with room for rows that are rounded up
    margin = 1.1 * 2 * embeddings.shape[1] * 2.0**-24 * lengths
    best: Best = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    floor = np.full(len(queries), -np.inf)
    for start in range(0, len(embeddings), size):
        found = _candidates(embeddings[start : start + size], queries, floor - margin, margin, count)
        if not len(found[0]):
            continue
        best = _first(best, (found[0], found[1] + start, found[2]), count)
        full = np.bincount(best[0], minlength=len(queries)) == count
        last = np.cumsum(np.bincount(best[0], minlength=len(queries))) - 1
        floor = np.where(full, best[2][np.maximum(last, 0)], -np.inf)
    return best[2].reshape(len(queries), count), best[1].reshape(len(queries), count)


def _candidates(
    part: NDArray[np.floating],
    queries: NDArray[np.float32],
    floor: NDArray[np.float64],
    margin: NDArray[np.float64],
    count: int,
) -> Best:
    """The pairs whose rows, of a part of all, may be among the first of their query, with their exact scores."""
    chunk = np.asarray(part, np.float32)
    scores = queries @ chunk.T
    chosen = scores >= floor[:, None]
    if np.count_nonzero(chosen) > _FEW * count * len(scores) and count < scores.shape[1]:
        last = scores.shape[1] - count
        own = np.partition(scores, last, axis=1)[:, last] - margin
        chosen &= scores >= own[:, None]
    at, rows = np.nonzero(chosen)
    exact = np.empty(len(rows))
    step = max(chunk.size // chunk.shape[1] // _PAIR_FLOATS, 1)  # products in float64, in parts
    for i in range(0, len(rows), step):  # each depends on its own row and query alone
        products = chunk[rows[i : i + step]].astype(np.float64) * queries[at[i : i + step]]
        exact[i : i + step] = products.sum(axis=1)
    return at, rows, exact


def _first(best: Best, more: Best, count: int) -> Best:
    """The first pairs of every query, sorted by score and then by row."""
    at, rows, scores = (np.concatenate(pair) for pair in zip(best, more, strict=True))
    order = np.lexsort((rows, -scores, at))
    begins = np.searchsorted(at[order], at[order])  # where the pairs of the same query begin
    kept = order[np.arange(len(order)) - begins < count]
    return at[kept], rows[kept], scores[kept]
