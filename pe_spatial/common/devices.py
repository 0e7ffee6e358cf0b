"""Which device a computation runs on, what it is called, and how much memory was used."""

import os
import platform
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

from pe_spatial.common.errors import UserError

_CPU_INFO = Path("/proc/cpuinfo")


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
            raise UserError(f"device {str(name)!r}: torch finds no CUDA device; use cpu")
        if (device.index or 0) >= count:
            raise UserError(f"device {str(name)!r}: there are {count} CUDA devices, numbered from 0")
    elif device.type != "cpu":
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UserError(f"device {str(name)!r} cannot be used here; write cpu, cuda or cuda:1") from error
    return device


def device_name(device: str | torch.device | None = None) -> str:
    """The name of a GPU, or the processor and the cores that this process may use."""
    if choose_device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({_told_of_processor('model name') or platform.machine()}, {available_cores()} cores)"


def multiplies_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has bfloat16 arithmetic, so that a model is faster in it; of a CPU, AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = _told_of_processor("flags").split() if device.type == "cpu" else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def processor_maker() -> str:
    """`GenuineIntel`, `AuthenticAMD` or what else an x86 processor calls its maker; empty where it cannot be told."""
    found = _told_of_processor("vendor_id")
    words = platform.processor().replace(",", " ").split()  # on Windows the maker is one of them
    return found or next((word for word in words if word in ("GenuineIntel", "AuthenticAMD")), "")


def _told_of_processor(name: str) -> str:
    """A field of the first processor, as Linux has it; empty without one."""
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory(device: str | torch.device | None = None) -> float:
    """GB: the most that CUDA has allocated on a GPU; otherwise the most that this process has held."""
    if choose_device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # Linux; what `getrusage` says may be that of the process which has started this one
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def forget_peak() -> None:
    """Let `peak_memory` tell of what follows alone, where the system can: on a GPU, and under Linux."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
