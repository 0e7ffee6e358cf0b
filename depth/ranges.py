"""The range of depth that a head can express, a loss sees and a metric judges."""

from collections.abc import Sequence

from pe_spatial.common.errors import ConfigError


def checked_range(depth_range: Sequence[float]) -> tuple[float, float]:
    """(least, greatest) as floats.

    Raises:
        ConfigError: Not two numbers with 0 < least < greatest.
    """
    if len(depth_range) != 2 or not 0 < depth_range[0] < depth_range[1]:
        raise ConfigError(
            f"depth_range {list(depth_range)} is not [least, greatest] in meters with 0 < least < greatest"
        )
    return float(depth_range[0]), float(depth_range[1])
