"""What the benchmarks ask and tell devices."""

import sys
from pathlib import Path

import torch


def synchronize(device: str) -> None:
    """Wait until the device has done its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def describe_device(device: str) -> str:
    """The name of the device, and for a CPU how many threads torch uses."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else device}, {torch.get_num_threads()} threads"
