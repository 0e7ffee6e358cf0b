"""Memory that a process has freed and keeps for its next tensors.

A network on a CPU allocates and frees tensors of megabytes in every layer. By default, Linux takes such memory back
each time, and fills it with zeros when it is asked for again. That is a third of the time of a small encoder
(docs/measurements/training.md). On a GPU PyTorch itself keeps what was freed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# of glibc, see `man mallopt`
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
# A thread with memory of its own would keep it apart, in pieces of 64 MB at most: what reads and writes large pictures
# beside the network would take and return their memory each time.
_KEEP = {_MMAP_THRESHOLD: 64 << 20, _TRIM_THRESHOLD: 256 << 20, _TOP_PAD: 32 << 20, _ARENA_MAX: 1}
# what glibc comes to by itself in a process that frees large blocks
_DEFAULT = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20, _TOP_PAD: 128 << 10, _ARENA_MAX: 0}
_OWN_CHOICE = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_ARENA_MAX", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MB of freed memory at its end, in blocks of up to 64 MB.

    It does nothing where the memory is not managed by glibc, and where the user has chosen how it is managed, by a
    variable such as `MALLOC_TRIM_THRESHOLD_` or by another library in `LD_PRELOAD`.

    Returns:
        Whether it was done.
    """
    return _set(_KEEP)


@contextmanager
def default_allocator() -> Iterator[None]:
    """Within it, freed memory is returned as it is without `keep_freed_memory`, so that the two can be compared."""
    _set(_DEFAULT)
    try:
        yield
    finally:
        keep_freed_memory()


def _set(values: dict[int, int]) -> bool:
    if not _by_glibc() or any(os.environ.get(name) for name in _OWN_CHOICE):
        return False
    import ctypes  # here, for a command begins with this module

    mallopt = ctypes.CDLL(None).mallopt
    for name, value in values.items():
        mallopt(name, value)
    return True


def _by_glibc() -> bool:
    name = "CS_GNU_LIBC_VERSION"
    return name in getattr(os, "confstr_names", {}) and (os.confstr(name) or "").startswith("glibc")
