"""How much memory is at hand, how an amount of it is written, and how large a picture may be."""

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pe_spatial.common.errors import OptionError, PictureError

MAX_PIXELS = "PE_SPATIAL_MAX_PIXELS"  # environment variable, which loader processes and torchrun pass on
# what a detector or a depth model needs for a pixel at most: the file decoded, as a tensor, resized, predicted, drawn
_BYTES_PER_PIXEL = 64
_ALWAYS = 16_000_000  # pixels that nobody needs to ask for
_CGROUPS = Path("/sys/fs/cgroup")
_UNITS = {"mb": 1e6, "gb": 1e9, "tb": 1e12, "mib": 2**20, "gib": 2**30}
# the limit of a group of processes and what it uses, of both versions
_CGROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def parse_memory(text: str) -> float | None:
    """Bytes of `12gb`, `11.5gb`, `800mb`, `24gib`; None of `auto`, which means what is free.

    Raises:
        OptionError: It is none of these, or no memory at all.
    """
    if text == "auto":
        return None
    match = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s?([a-z]+)", text.strip().lower())
    if match is None or match[2] not in _UNITS or float(match[1]) <= 0:
        raise OptionError(
            f"memory {text!r} is not an amount of memory; write auto, or a number above 0 with its unit: 12gb, "
            f"11.5gb, 800mb"
        )
    return float(match[1]) * _UNITS[match[2]]


def gigabytes(amount: float) -> str:
    """Bytes for a reader: `11.53 GB`, and `0.084 GB` where two decimals say little."""
    return f"{amount / 1e9:.{2 if amount >= 1e9 else 3}f} GB"


def process_memory() -> int:
    """Bytes of the machine's memory that this process holds now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def available_memory() -> int:
    """Bytes that this process may still take: of the machine, of its container, and of its own limit (`ulimit -v`)."""
    import psutil  # not where a mistyped option is answered

    found = [psutil.virtual_memory().available]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        found.append(limit - psutil.Process().memory_info().vms)
    found += [left for folder in (_CGROUPS, _CGROUPS / "memory") if (left := _left_to_group(folder)) is not None]
    return max(min(found), 0)


def _left_to_group(folder: Path) -> int | None:
    """What the limit of a container leaves; files that the system keeps in memory give way. None: no limit."""
    for limit, used in _CGROUP_FILES:
        try:
            entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cached = int(entries.get("inactive_file", 0))
            return int((folder / limit).read_text()) - int((folder / used).read_text()) + cached
        except (OSError, ValueError):  # "max": no limit
            continue
    return None


def check_pixels(height: int, width: int, most: int | None = None) -> None:
    """Refuse a picture that is too large for the memory, before it is decoded.

    Args:
        height: As its header says.
        width: Likewise.
        most: Pixels that are allowed; None takes the environment variable `MAX_PIXELS`, and without it as many as the
            free memory holds.

    Raises:
        PictureError: It has more pixels.
        OptionError: The environment variable is no number.
    """
    pixels = height * width
    most = stated_limit() if most is None else most
    if most is None:
        if pixels <= _ALWAYS:
            return
        most = max(available_memory() // _BYTES_PER_PIXEL, _ALWAYS)
    if pixels > most:
        raise PictureError(
            f"{height} x {width} pixels (H x W) are {pixels:,}, more than the limit of {most:,} (by default as many "
            "as fit into the free memory); make it smaller, or raise the limit with --max-pixels, in Python "
            f"max_pixels, in the environment {MAX_PIXELS}"
        )


@contextmanager
def allowing_pixels(most: int | None) -> Iterator[None]:
    """Allow pictures of so many pixels in the block, also in processes that it starts; None changes nothing."""
    before = os.environ.get(MAX_PIXELS)
    if most is not None:
        os.environ[MAX_PIXELS] = str(most)
    try:
        yield
    finally:
        if most is not None:
            os.environ.pop(MAX_PIXELS)
            if before is not None:
                os.environ[MAX_PIXELS] = before


def stated_limit() -> int | None:
    """What the environment variable `MAX_PIXELS` says."""
    text = os.environ.get(MAX_PIXELS)
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise OptionError(f"the environment variable {MAX_PIXELS} is {text!r}; it must be a number of pixels, or unset")
    return int(text)
