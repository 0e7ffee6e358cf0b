"""The exact product: equal to numpy's on all rows at once, with ties, whatever the chunks, in a bounded memory."""

import tracemalloc

import numpy as np
import pytest

from pe_spatial.search.product import nearest

CHUNKS = (1, 100, 3000, 10**7)  # bytes: of one row, of a few, of all


def unit(generator, *shape, dtype=np.float32):
    values = generator.normal(size=shape)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(dtype)


def brute_force(embeddings, queries, top_k):
    """All scores in float64; a stable sort keeps equal ones in the order of rows."""
    scores = (queries.astype(np.float64)[:, None] * embeddings.astype(np.float64)[None]).sum(axis=-1)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return np.take_along_axis(scores, rows, axis=1), rows


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("top_k", [1, 7, 500, 900])
def test_it_is_the_product_of_all_rows(dtype, top_k):
    generator = np.random.default_rng(0)
    embeddings, queries = unit(generator, 500, 24, dtype=dtype), unit(generator, 9, 24)
    expected = brute_force(embeddings, queries, top_k)
    for chunk in CHUNKS:
        scores, rows = nearest(embeddings, queries, top_k, chunk)
        assert np.array_equal(rows, expected[1])
        assert np.array_equal(scores, expected[0])  # to the last digit, whatever the chunks


@pytest.mark.parametrize("chunk", CHUNKS)
def test_equal_rows_come_in_their_order(chunk):
    generator = np.random.default_rng(1)
    embeddings = unit(generator, 6, 16)[generator.integers(6, size=400)]  # each of six rows many times
    queries = unit(generator, 5, 16)
    expected = brute_force(embeddings, queries, 150)
    scores, rows = nearest(embeddings, queries, 150, chunk)
    assert np.array_equal(rows, expected[1]) and np.array_equal(scores, expected[0])


@pytest.mark.parametrize("chunk", CHUNKS)
def test_what_float32_cannot_tell_apart_is_told_apart(chunk):
    """Sums that round to one number in float32; the best row is the last, so a plain top-k would miss it."""
    embeddings = np.tile(np.array([0.5, 0.0], np.float32), (50, 1))
    embeddings[:, 1] = np.arange(50) * 2.0**-35
    query = np.array([[1.0, 1.0]], np.float32)
    assert len(set((embeddings @ query[0]).tolist())) == 1
    assert nearest(embeddings, query, 3, chunk)[1].tolist() == [[49, 48, 47]]


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_the_rows_does_not_matter(order):
    """Rising scores make every row a candidate when it comes."""
    angles = np.linspace(0, 1.5, 2000)[::order]
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    query = np.array([[0.0, 1.0]], np.float32)
    assert np.array_equal(nearest(embeddings, query, 20, 400)[1], brute_force(embeddings, query, 20)[1])


def test_many_queries_are_answered_in_parts():
    generator = np.random.default_rng(2)
    embeddings, queries = unit(generator, 60, 8), unit(generator, 600, 8)
    assert np.array_equal(nearest(embeddings, queries, 5)[1], brute_force(embeddings, queries, 5)[1])
    assert nearest(embeddings, queries[:0], 5)[1].shape == (0, 5)


@pytest.mark.parametrize("rows_of", [lambda rows: rows, lambda rows: np.broadcast_to(rows[0], rows.shape)])
def test_memory_does_not_grow_with_the_rows(tmp_path, rows_of):
    """Also where all rows are equal, so that each is as good as the others."""
    generator = np.random.default_rng(3)
    np.save(tmp_path / "rows.npy", unit(generator, 40_000, 32, dtype=np.float16))
    mapped = rows_of(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    query, chunk, peaks = unit(generator, 4, 32), 200_000, []
    for count in (10_000, 40_000):
        tracemalloc.start()
        nearest(mapped[:count], query, 10, chunk)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 3 * chunk and peaks[1] < 1.2 * peaks[0]
