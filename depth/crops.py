"""The evaluation regions of the literature: the part of an image whose pixels are judged."""

from collections.abc import Callable

from pe_spatial.common.errors import ConfigError

Region = tuple[slice, slice]  # rows, columns


def nyu_eigen(height: int, width: int) -> Region:
    """Rows 45-470 and columns 41-600: where the colors of NYUv2 lie over measured depth.

    Raises:
        ConfigError: Another frame than 480x640, in which the numbers have no meaning.
    """
    if (height, width) != (480, 640):
        raise ConfigError(
            f"the crop nyu_eigen is defined on 480x640 but the depth map is {height}x{width}; judge in the frame of "
            "NYUv2 or choose another crop"
        )
    return slice(45, 471), slice(41, 601)


def garg(height: int, width: int) -> Region:
    """KITTI after Garg et al. (2016): the part of the frame that the lidar covers."""
    return _fraction(height, width, (0.40810811, 0.99189189), (0.03594771, 0.96405229))


def kitti_eigen(height: int, width: int) -> Region:
    """KITTI after Eigen et al. (2014)."""
    return _fraction(height, width, (0.3324324, 0.91351351), (0.0359477, 0.96405229))


def _fraction(height: int, width: int, rows: tuple[float, float], columns: tuple[float, float]) -> Region:
    return slice(int(rows[0] * height), int(rows[1] * height)), slice(int(columns[0] * width), int(columns[1] * width))


CROPS: dict[str, Callable[[int, int], Region]] = {"nyu_eigen": nyu_eigen, "garg": garg, "kitti_eigen": kitti_eigen}
