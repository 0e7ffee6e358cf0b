"""The import table of CONTRIBUTING.md, kept true by parsing every import in the packages."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMON = {"torch", "torchvision", "mmengine", "numpy", "PIL"}
OURS = {"pe_spatial", "detection", "segmentation", "depth", "tracking", "configs", "tools", "tests"}

# package or file -> (our modules that it may import, third parties beyond COMMON); the longest prefix decides
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "pe_spatial": ({"pe_spatial.backbones", "pe_spatial.data", "pe_spatial.engine"}, set()),
    "pe_spatial.backbones": ({"pe_spatial.backbones"}, set()),
    "pe_spatial.backbones.weights": ({"pe_spatial.backbones"}, {"safetensors", "huggingface_hub"}),
    "pe_spatial.data": ({"pe_spatial.data"}, set()),
    "pe_spatial.data.loading": ({"pe_spatial.data"}, {"pycocotools"}),
    "pe_spatial.data.synthetic": ({"pe_spatial.data"}, {"skimage"}),
    "pe_spatial.visualization": ({"pe_spatial.backbones", "pe_spatial.data"}, set()),
    "pe_spatial.feature_pictures": ({"pe_spatial.visualization"}, set()),
    "pe_spatial.engine": (
        {"pe_spatial.backbones", "pe_spatial.data", "pe_spatial.engine", "pe_spatial.visualization"},
        {"yaml", "psutil", "rich", "cv2", "safetensors"},
    ),
    "pe_spatial.engine.sam2_model": ({"pe_spatial.backbones"}, {"sam2", "hydra", "omegaconf"}),
    "pe_spatial.alignment": (
        {
            "pe_spatial.alignment",
            "pe_spatial.backbones",
            "pe_spatial.data",
            "pe_spatial.engine",
            "pe_spatial.visualization",
        },
        set(),
    ),
    "pe_spatial.alignment.cache": (
        {"pe_spatial.alignment", "pe_spatial.data", "pe_spatial.engine"},
        {"safetensors"},
    ),
    "detection": ({"pe_spatial", "detection"}, {"pycocotools", "hotcoco", "rich", "cv2"}),
    "detection.deta": ({"pe_spatial", "detection"}, {"scipy"}),
    "detection.detectron2_adapter": ({"pe_spatial", "detection"}, {"detectron2"}),
    "segmentation": ({"pe_spatial", "segmentation"}, {"mmseg", "mmcv"}),
    "segmentation.mask_decoder": ({"pe_spatial", "segmentation"}, {"scipy"}),
    "depth": ({"pe_spatial", "depth"}, set()),
    "depth.loading": ({"pe_spatial", "depth"}, {"OpenEXR"}),
    "tracking": ({"pe_spatial", "tracking"}, {"cv2", "scipy"}),
    "tracking.prompts": ({"pe_spatial", "tracking"}, {"sam2"}),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rule_of(module: str) -> tuple[set[str], set[str]]:
    best = max((key for key in ALLOWED if module == key or module.startswith(key + ".")), key=len)
    return ALLOWED[best]


def imports_of(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports anywhere, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the absolute name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(module: str, imports: set[str], stdlib: set[str]) -> list[str]:
    ours, third_parties = rule_of(module)
    wrong = []
    for name in sorted(imports):
        top = name.split(".")[0]
        if top in OURS:
            if not any(name == allowed or name.startswith(allowed + ".") for allowed in ours):
                wrong.append(name)
        elif top not in COMMON | third_parties | stdlib:
            wrong.append(name)
    return wrong


def source_files() -> list[Path]:
    packages = ["pe_spatial", "detection", "segmentation", "depth", "tracking"]
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_imports_follow_the_table(path):
    wrong = violations(module_name(path), imports_of(path), set(sys.stdlib_module_names))
    assert not wrong, f"{module_name(path)} may not import {wrong}; see the import table in CONTRIBUTING.md"


def test_a_sideways_import_is_found():
    assert violations("depth.model", {"detection.metrics", "torch.nn"}, set()) == ["detection.metrics"]
    assert violations("pe_spatial.backbones.vit", {"pe_spatial.engine.config"}, set()) == ["pe_spatial.engine.config"]
    assert violations("pe_spatial.backbones.vit", {"mmseg.models"}, set()) == ["mmseg.models"]
    assert violations("detection.metrics", {"hotcoco.COCO", "json"}, {"json"}) == []


def test_every_python_file_at_the_top_belongs_to_a_known_folder():
    known = {"pe_spatial", "detection", "segmentation", "depth", "tracking", "configs", "tools", "tests"}
    folders = {path.parent.relative_to(ROOT).parts[0] for path in ROOT.glob("*/*.py") if path.parent.name[0] != "."}
    assert folders <= known, f"unexpected packages at the top level: {folders - known}"
