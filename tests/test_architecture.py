"""The floors of docs/developing/architecture.md and the rule of one door each, from every file of the packages."""

import ast
import re
import sys
from pathlib import Path

import draw_floors
import pytest

ROOT = Path(__file__).parents[1]
TASKS = ("detection", "segmentation", "depth", "tracking")
COMMON = {"torch", "torchvision", "mmengine", "numpy", "PIL"}
LONGEST_FILE = 350  # lines
LONGEST_FUNCTION = 60  # lines

# package or module of pe_spatial -> (ours that it may import besides itself, third parties beyond COMMON);
# the longest prefix decides
COMMON_FLOOR = {"common"}
FLOOR_1 = {"common", "backbones", "data", "visualization", "engines"}
FLOOR_2 = {*FLOOR_1, "training", "inference", "doctor", "own", "plm", "zero_shot", "features", "search"}
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "": ({*FLOOR_2, *TASKS}, set()),  # the lazy names of pe_spatial itself
    "common": (set(), {"filelock", "rich"}),
    "common.files": (set(), {"psutil"}),
    "common.memory": (set(), {"psutil"}),
    "common.picture_files": (set(), {"pillow_heif"}),
    "common.pictures": (set(), {"cv2", "isal", "tifffile"}),
    "common.safe_yaml": (set(), {"yaml"}),
    "common.tensors": (set(), {"safetensors"}),
    "common.video": (set(), {"av", "cv2"}),
    "backbones": (COMMON_FLOOR, set()),
    "backbones.text": (COMMON_FLOOR, {"ftfy", "regex"}),
    "backbones.weights": (COMMON_FLOOR, {"safetensors", "huggingface_hub"}),
    "backbones.timm_backbone": (COMMON_FLOOR, {"timm"}),
    "backbones.timm_models": (COMMON_FLOOR, {"timm"}),
    "backbones.token_blocks": (COMMON_FLOOR, {"timm"}),
    "backbones.timm_weights": (COMMON_FLOOR, {"timm"}),
    "backbones.sam2_model": (COMMON_FLOOR, {"sam2", "hydra", "omegaconf"}),
    "data": (COMMON_FLOOR, {"pycocotools"}),
    "data.annotations": (COMMON_FLOOR, {"pycocotools", "msgspec"}),
    "engines": (COMMON_FLOOR, set()),
    "engines.sessions": (COMMON_FLOOR, {"onnxruntime", "openvino"}),
    "engines.header": (COMMON_FLOOR, {"openvino"}),
    "runtime": ({"common", "engines"}, set()),
    "export": ({*FLOOR_2, "__version__"}, {"onnx", "onnxruntime", "openvino"}),
    "demo": ({"common", "data", "visualization"}, {"skimage"}),
    "visualization": ({"common", "backbones", "data"}, {"cv2"}),
    "visualization.charts": (COMMON_FLOOR, {"matplotlib"}),
    "training": ({*FLOOR_1, "doctor", "__version__", "configs"}, {"yaml", "psutil", "cv2"}),
    "training.hub": ({*FLOOR_1, "training"}, {"huggingface_hub"}),
    "doctor": (FLOOR_1, set()),
    "inference": ({*FLOOR_1, "training"}, {"supervision"}),
    "zero_shot": ({*FLOOR_1, "demo", "inference"}, {"open_clip"}),
    "integrations.transformers": ({"common", "backbones"}, {"transformers"}),
    "integrations": (set(), set()),
    "own": ({*FLOOR_1, "training", "inference", "doctor"}, set()),
    "features": ({*FLOOR_1, "inference"}, set()),
    "features.zarr_store": (COMMON_FLOOR, {"zarr"}),
    "search": ({*FLOOR_1, "inference", "features", "zero_shot"}, set()),
    "plm": ({"common", "backbones"}, set()),
    "alignment": (FLOOR_2, {"safetensors"}),
    "detection": (FLOOR_2, {"hotcoco"}),
    "detection.deta": (FLOOR_2, {"scipy"}),
    "detection.detectron2_adapter": (FLOOR_2, {"detectron2"}),
    "segmentation": (FLOOR_2, {"mmseg", "mmcv"}),
    "segmentation.mask_decoder": (FLOOR_2, {"scipy"}),
    "segmentation.results": (FLOOR_2, {"cv2"}),
    "depth": (FLOOR_2, set()),
    "depth.loading": (FLOOR_2, {"OpenEXR"}),
    "tracking": (FLOOR_2, {"scipy"}),
    "tracking.metrics": (FLOOR_2, {"cv2"}),
    "tracking.correspondence": (FLOOR_2, {"cv2"}),
    "tracking.prompts": (FLOOR_2, {"sam2"}),
    "__main__": ({"commands"}, set()),
    "commands": (
        {*FLOOR_2, *TASKS, "alignment", "export", "demo", "configs", "__version__"},
        {"rich", "timm", "mmseg", "cv2", "sam2", "open_clip", "pycocotools"},
    ),
}

# what reads or writes a kind of file -> the one module or package that may call it
DOORS = {
    "torch.load": "common.tensors",
    "cv2.VideoCapture": "common.video",
    "cv2.VideoWriter": "common.video",
    "av.open": "common.video",
    "Image.open": "common.picture_files",
    "os.replace": "common.files",
    "os.fsync": "common.files",
    "nn.Linear": "common.linear",
    "F.linear": "common.linear",
    "F.scaled_dot_product_attention": "common.attention",
}


def source_files() -> list[Path]:
    return [path for folder in ("pe_spatial", *TASKS) for path in sorted((ROOT / folder).rglob("*.py"))]


def module_name(path: Path) -> str:
    """The name inside pe_spatial: `detection.metrics`, `common.files`, and an empty text for pe_spatial itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "pe_spatial" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def rule_of(module: str) -> tuple[set[str], set[str]]:
    best = max((key for key in ALLOWED if key and within(module, key)), key=len, default="")
    assert best or not module, f"{module} belongs to no package of the table"
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
    own = module.split(".")[0]
    wrong = []
    for name in sorted(imports):
        top, _, rest = name.partition(".")
        if top == "pe_spatial":
            if not any(within(rest, allowed) for allowed in {*ours, own} if allowed):
                wrong.append(name)
        elif top in TASKS or top not in COMMON | third_parties | stdlib:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_imports_follow_the_table(path):
    wrong = violations(module_name(path), imports_of(path), set(sys.stdlib_module_names))
    assert not wrong, f"{module_name(path)} may not import {wrong}; see the floors in docs/developing/architecture.md"


def test_a_sideways_import_is_found():
    assert violations("depth.model", {"pe_spatial.detection.metrics", "torch.nn"}, set()) == [
        "pe_spatial.detection.metrics"
    ]
    assert violations("backbones.vit", {"pe_spatial.training.config"}, set()) == ["pe_spatial.training.config"]
    assert violations("backbones.vit", {"mmseg.models"}, set()) == ["mmseg.models"]
    assert violations("detection.metrics", {"hotcoco.COCO", "json"}, {"json"}) == []
    assert violations("depth.model", {"depth.heads"}, set()) == ["depth.heads"]  # the name of version 0.1


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls_of(path: Path) -> set[str]:
    """Dotted names of what a file calls or passes on."""
    return {dotted(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("path", source_files(), ids=module_name)
def test_one_door_each(path):
    wrong = sorted(name for name in calls_of(path) & DOORS.keys() if not within(module_name(path), DOORS[name]))
    assert not wrong, f"{module_name(path)} calls {wrong}; call {[DOORS[name] for name in wrong]} instead"


def test_a_second_door_is_found(tmp_path):
    path = tmp_path / "second.py"
    path.write_text("import os\nfrom PIL import Image\nos.replace(a, b)\nImage.open(c)\n")
    assert calls_of(path) & DOORS.keys() == {"os.replace", "Image.open"}


@pytest.mark.parametrize("path", [*source_files(), *sorted((ROOT / "examples").rglob("*.py"))], ids=module_name)
def test_a_file_is_one_idea_and_a_function_fits_a_screen(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST_FILE
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


def test_no_import_cycle():
    """Module-level imports form no cycle, seen between modules."""
    names = {f"pe_spatial.{module_name(path)}".rstrip("."): path for path in source_files()}
    graph = {name: top_level_imports(path, names) - {name} for name, path in names.items()}
    done: set[str] = set()
    for start in graph:
        walk(start, graph, [], done)


def top_level_imports(path: Path, names: dict[str, Path]) -> set[str]:
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in names else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & names.keys()


def walk(name: str, graph: dict[str, set[str]], trail: list[str], done: set[str]) -> None:
    assert name not in trail, f"import cycle: {' -> '.join([*trail[trail.index(name) :], name])}"
    if name not in done:
        for other in sorted(graph[name]):
            walk(other, graph, [*trail, name], done)
        done.add(name)


def test_every_python_file_at_the_top_belongs_to_a_known_folder():
    known = {"pe_spatial", *TASKS, "configs", "tools", "tests", "docs", "examples"}
    folders = {path.parent.relative_to(ROOT).parts[0] for path in ROOT.glob("*/*.py") if path.parent.name[0] != "."}
    assert folders <= known, f"unexpected packages at the top level: {folders - known}"


def names_of(path: Path) -> set[str]:
    """What a module defines or imports at its top level."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for part in ast.walk(node) if not isinstance(node, ast.FunctionDef | ast.ClassDef) else [node]:
            if isinstance(part, ast.FunctionDef | ast.ClassDef):
                found.add(part.name)
            elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                found.add(part.id)
            elif isinstance(part, ast.ImportFrom | ast.Import):
                found |= {alias.asname or alias.name.partition(".")[0] for alias in part.names}
    return found


def missing_in_tests(path: Path, names: dict[str, set[str]]) -> list[str]:
    """What a test takes from modules of tests that they do not have."""
    taken = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    return [
        f"{node.module}.{alias.name}"
        for node in taken
        for alias in node.names
        if node.module in names and alias.name not in names[node.module]
    ]


def test_what_tests_take_from_each_other_exists(tmp_path):
    """A name that moved fails here in a second, not in some other folder's tests ten minutes later."""
    names = {path.stem: names_of(path) for path in (ROOT / "tests").rglob("*.py") if path.stem != "conftest"}
    assert {path: lost for path in (ROOT / "tests").rglob("*.py") if (lost := missing_in_tests(path, names))} == {}
    (tmp_path / "broken.py").write_text("from small_checkpoints import MOVED, tracker_config\n")
    assert missing_in_tests(tmp_path / "broken.py", names) == ["small_checkpoints.MOVED"]


def test_the_page_has_every_package_on_one_floor_and_the_picture_has_the_same():
    page = (ROOT / "docs/developing/architecture.md").read_text(encoding="utf-8")
    named = [name for names in draw_floors.floors(page).values() for name in names]
    packages = [path.parent.name for path in (ROOT / "pe_spatial").glob("*/__init__.py")]
    assert sorted(named) == sorted([*packages, *TASKS, "tools", "examples"])
    drawing = (ROOT / "docs/developing/floors.svg").read_text(encoding="utf-8")
    assert drawing == draw_floors.picture(draw_floors.floors(page)), "run tools/dev/draw_floors.py"


def test_the_doors_of_the_page_exist():
    page = (ROOT / "docs/developing/architecture.md").read_text(encoding="utf-8")
    doors = page.partition("## One door")[2]
    paths = re.findall(r"`([a-z_]+/[\w/.]+)`", doors)
    assert len(paths) > 40
    folders = (ROOT / "pe_spatial", ROOT)
    assert [path for path in paths if not any((folder / path).exists() for folder in folders)] == []
