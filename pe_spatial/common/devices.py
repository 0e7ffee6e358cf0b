"""Which device a computation runs on."""

import torch

from pe_spatial.common.errors import UserError


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name; without one, CUDA if there is any, else the CPU.

    Raises:
        UserError: There is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} does not exist; write cpu, cuda or cuda:1") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not count:
            raise UserError(f"device {str(name)!r}: torch sees no CUDA device here; use cpu")
        if (device.index or 0) >= count:
            raise UserError(f"device {str(name)!r}: there are {count} CUDA devices, numbered from 0")
    return device
