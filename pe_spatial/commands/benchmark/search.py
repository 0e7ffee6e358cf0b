"""Exact search in many rows: seconds and memory of a query, beside a plain product: `pe-spatial benchmark search`."""

import argparse
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe_spatial.commands.benchmark.measuring import median_ratio, show, take_turns
from pe_spatial.common.files import write_atomically
from pe_spatial.search.product import nearest
from pe_spatial.search.writer import TYPES, npy_header

_BLOCK = 50_000  # rows that are made at once


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Make random rows, search them in turns with a plain product, and show the figures."""
    setting = {"rows": options.rows, "channels": options.channels, "dtype": options.dtype, "queries": options.queries}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "embeddings.npy"
        write_random_rows(path, options.rows, options.channels, options.dtype)
        show({**setting, "file_mb": path.stat().st_size / 1e6})
        embeddings = np.load(path, mmap_mode="r")
        queries = random_rows(np.random.default_rng(1), options.queries, options.channels)
        works: dict[str, Callable[[], NDArray[np.int64]]] = {
            "search": lambda: nearest(embeddings, queries, options.top_k)[1],
            "product": lambda: whole_product(embeddings, queries, options.top_k),
        }
        times = take_turns({way: partial(_timed, work) for way, work in works.items()}, options.rounds)
        figures: dict[str, Any] = {"same_rows": bool(np.array_equal(works["search"](), works["product"]()))}
        for place, clock in enumerate(("wall", "cpu")):
            mine, plain = ([pair[place] for pair in times[way]] for way in works)
            figures |= {f"search_{clock}_s": statistics.median(mine), f"product_{clock}_s": statistics.median(plain)}
            figures[f"product_over_search_{clock}"] = median_ratio(mine, plain)
        figures |= {f"{way}_mb": peak_of(work) / 1e6 for way, work in works.items()}
    show(figures)
    return {**setting, **figures}


def random_rows(generator: np.random.Generator, rows: int, channels: int) -> NDArray[np.float32]:
    """Random vectors float32 [rows, channels] of length 1."""
    values = generator.standard_normal((rows, channels), np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def write_random_rows(path: Path, rows: int, channels: int, dtype: str) -> None:
    """Write random vectors as `pe-spatial index` writes those of pictures."""
    generator, kind = np.random.default_rng(0), TYPES[dtype]

    def write(file: Any) -> None:  # noqa: ANN401 - a binary file
        file.write(npy_header(rows, channels, kind))
        for start in range(0, rows, _BLOCK):
            file.write(random_rows(generator, min(_BLOCK, rows - start), channels).astype(kind).tobytes())

    write_atomically(path, write)


def whole_product(embeddings: NDArray[np.floating], queries: NDArray[np.float32], top_k: int) -> NDArray[np.int64]:
    """The first rows [Q, K] by one product with all rows in memory, in float32."""
    scores = queries @ np.asarray(embeddings, np.float32).T
    first = np.argpartition(-scores, top_k, axis=1)[:, :top_k]
    order = np.argsort(-np.take_along_axis(scores, first, axis=1), axis=1, kind="stable")
    return np.take_along_axis(first, order, axis=1)


def peak_of(work: Callable[[], object]) -> int:
    """Bytes of arrays that a call holds at most; pages of a mapped file are not among them."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _timed(work: Callable[[], object], _: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu
