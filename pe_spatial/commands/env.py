"""Report versions, devices, extras and weights.

    pe-spatial env
    pe-spatial env --json

Add this output to a bug report.
"""

import argparse
import json
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from pe_spatial import __version__
from pe_spatial.commands.options import CommandParser

PACKAGES = ("torch", "torchvision", "onedl-mmengine", "numpy", "pillow", "opencv-python", "av", "hotcoco")
FOR_DEVELOPERS = ("test", "lint")  # extras
DRIVER = Path("/proc/driver/nvidia/version")


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    report = describe()
    if options.json:
        print(json.dumps(report, indent=2))
        return 0
    for title, content in report.items():
        print(title)
        for key, value in content.items():
            print(f"  {key:<{max(map(len, content))}}  {value}")
    return 0


def describe() -> dict[str, dict[str, Any]]:
    """Sections of the report: names to versions, devices, extras and files."""
    return {
        "system": {
            "pe_spatial": f"{__version__} in {Path(__file__).parents[1]}",
            "Python": f"{platform.python_version()} in {sys.prefix}",
            "platform": platform.platform(),
            "CPU threads": os.cpu_count(),
        },
        "packages": {name: installed(name) or "not installed" for name in PACKAGES},
        "devices": devices(),
        "extras": extras(),
        "weights": weights(),
    }


def installed(distribution: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def devices() -> dict[str, Any]:
    """What torch computes on."""
    import torch

    found: dict[str, Any] = {
        "CUDA of torch": torch.version.cuda or "none: a build for CPUs",
        "NVIDIA driver": DRIVER.read_text().splitlines()[0].strip() if DRIVER.is_file() else "none",
    }
    for number in range(torch.cuda.device_count()):
        free, total = (amount / 2**30 for amount in torch.cuda.mem_get_info(number))
        found[f"cuda:{number}"] = f"{torch.cuda.get_device_name(number)}, {total:.1f} GiB, {free:.1f} GiB free"
    return found


def extras() -> dict[str, str]:
    """For every extra of this package whether it is installed, and how to install it."""
    try:
        distribution = metadata.distribution("pe_spatial")
    except metadata.PackageNotFoundError:
        return {"unknown": "pe_spatial is not installed; pip install -e . in its checkout"}
    states = {}
    for extra in distribution.metadata.get_all("Provides-Extra") or []:
        if extra in FOR_DEVELOPERS:
            continue
        mark = re.compile(rf"""extra == ['"]{extra}['"]""")
        lines = [line for line in distribution.requires or [] if mark.search(line)]
        names = [match[0] for line in lines if (match := re.match(r"[\w.-]+", line))]
        missing = [name for name in names if installed(name) is None]
        versions = ", ".join(f"{name} {installed(name)}" for name in names if name not in missing)
        states[extra] = f"missing {', '.join(missing)}: pip install 'pe_spatial[{extra}]'" if missing else versions
    return states


def weights() -> dict[str, str]:
    """The folder of weights, and the released weights that are on this machine."""
    from pe_spatial.backbones.variants import VARIANTS
    from pe_spatial.backbones.weights.source import FOLDER_VARIABLE, find_on_machine

    folder = os.environ.get(FOLDER_VARIABLE)
    found = {FOLDER_VARIABLE: folder or "not set; weights are looked for in the cache of the Hugging Face hub"}
    found |= {name: str(path) for name in VARIANTS if (path := find_on_machine(name))}
    if folder:
        sam = sorted(Path(folder).expanduser().glob("sam2.1_hiera_*.pt"))
        found |= {path.stem: str(path) for path in sam}
    return found
