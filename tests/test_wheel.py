"""The installed wheel in a foreign folder: it needs nothing of the checkout and disturbs nothing of the user's."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = "demo/mask_rcnn_tiny_shapes.yaml"
TASKS = ("detection", "segmentation", "depth", "tracking")
FOLDERS = {"pe_spatial": "pe_spatial", **{f"pe_spatial.{task}": task for task in TASKS}}


def run(command, folder, **kwargs):
    """The finished process; its output is shown where it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPYCACHEPREFIX"] = tempfile.gettempdir() + "/pe_spatial_wheel"  # torch is compiled once
    finished = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=300, **kwargs
    )
    assert finished.returncode == 0, f"{command}\n{finished.stdout}\n{finished.stderr}"
    return finished


def write_dummy_wheel(folder):
    """A distribution of somebody else's with a top-level package `detection`, as PyPI has one."""
    path = folder / "dummy_detection-1.0-py3-none-any.whl"
    info = "dummy_detection-1.0.dist-info"
    files = {
        "detection/__init__.py": "OWNER = 'somebody else'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: dummy-detection\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the checkout without network, so that the checkout stays as it is."""
    copy = tmp_path_factory.mktemp("source") / "pe_spatial"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("pe_spatial", "configs", *TASKS):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    run([*pip, "--wheel-dir", folder, copy], folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def commands(wheel, tmp_path_factory):
    """The folder of programs of an empty environment with our wheel; the dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    python = folder / "bin" / "python"
    packages = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).stdout.strip()
    # paths in a .pth file are searched, but .pth files below them are not read: the checkout stays out of sight
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet"]
    run([*pip, "--ignore-installed", wheel, write_dummy_wheel(tmp_path_factory.mktemp("dummy"))], folder)
    return folder / "bin"


@pytest.fixture(scope="module")
def foreign(commands, tmp_path_factory):
    """A user's folder with packages of their own that have the names of our tasks, and the synthetic data."""
    folder = tmp_path_factory.mktemp("foreign")
    for name in TASKS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('the user\\'s own folder was imported')\n")
    (folder / "configs").mkdir()
    (folder / "configs" / "mine.yaml").write_text(f"_base_: {CONFIG}\ntrain_cfg: {{max_iters: 2, val_interval: 2}}\n")
    data = ["--images", 12, "--image-size", 128, "--videos", 1, "--frames", 3]
    run([commands / "pe-spatial", "demo", "--output", "demo/data", *data], folder)
    return folder


@pytest.fixture(scope="module")
def trained(commands, foreign):
    """A run of two iterations, started by the name of a recipe that builds on an installed one."""
    short = ["param_scheduler=null", "train_dataloader.batch_size=2", "model.rpn.post_nms=[20, 10]"]
    run([commands / "pe-spatial", "train", "--config", "mine.yaml", "--output", "run", *short], foreign)
    assert (foreign / "run" / "iter_2.pth").is_file()
    return foreign / "run"


def test_a_run_is_scored_by_its_folder_alone(commands, trained, foreign):
    out = run([commands / "pe-spatial", "eval", "run"], foreign).stdout
    assert "bbox_mAP" in out
    assert (trained / "evaluation" / "result.json").is_file()


def test_ones_own_data_is_trained_on_by_one_command(commands, foreign):
    short = "train detection --data demo/data --model mask_rcnn-tiny --iterations 1 --image-size 64 --workers 0"
    run([commands / "pe-spatial", *short.split(), "--output", "own"], foreign)
    assert (foreign / "own" / "RESULT.md").is_file()


def test_a_small_encoder_is_taught_on_one_card_at_the_cost_that_is_told(commands, foreign):
    """Time is that of the clock of a machine which others may use; its bound is wide. Memory is that of the process."""
    program = (
        "import torch; from pe_spatial.backbones import PEBackbone; from pe_spatial.own.models import TINY_ENCODER\n"
        "for n in (1, 2): torch.save(PEBackbone(TINY_ENCODER).encoder.state_dict(), f'teacher{n}.pt')"
    )
    run([commands / "python", "-c", program], foreign)
    taught = "train alignment --data demo/data/images/train --teacher teacher1.pt --teacher teacher2.pt --memory 3gb"
    student = "--model core-tiny --weights none --image-size 64 --batch-size 8 --iterations 12 --workers 0"
    command = [commands / "pe-spatial", *taught.split(), *student.split(), "--output", "factory"]
    out = run(command, foreign).stdout
    told = re.search(r"cost: 96 images, \S+ \(h:mm:ss\) at (\S+) s each, .*; memory (\S+) GB; disk \S+ GB", out)
    assert told, out
    assert re.search(r"the teachers take \d+% of a step: a cache of their features would save", out), out
    (held,) = re.findall(r" 12/12 .* (\S+) GB  eta", out)
    assert float(held) == pytest.approx(float(told[2]), rel=0.15)
    plan = json.loads((foreign / "factory" / "result.json").read_text())["plan"]
    assert 0.2 < plan["measured_seconds_per_image"] / float(told[1]) < 5
    assert (foreign / "factory" / "student.pt").is_file()


def test_prediction_takes_any_photograph(commands, trained, foreign):
    command = [commands / "pe-spatial", "predict", "--checkpoint", "run", "--input", "demo/data/images/val"]
    run([*command, "--output", "out", "--threshold", "0"], foreign)
    content = json.loads((foreign / "out" / "predictions.json").read_text())
    assert len(content["images"]) == 2
    assert [category["name"] for category in content["categories"]] == ["disc", "box", "triangle"]


def test_tracking(commands, foreign):
    frames = next(path for path in sorted((foreign / "demo" / "data").rglob("*")) if (path / "00000.jpg").is_file())
    command = [commands / "pe-spatial", "track", "--config", "tracking/pe448_pe_spatial_t16_davis2017"]
    options = ["--weights", "none", "--box", "4,4,40,40", "model.resizing.tokens=8"]
    run([*command, "--input", frames, "--output", "tracked", *options], foreign)
    assert len(list((foreign / "tracked").rglob("*.png"))) == 3


def test_the_doctor(commands, foreign):
    out = run([commands / "pe-spatial", "check", "--config", CONFIG, "--output", "sheets"], foreign).stdout
    assert "0 kinds of errors" in out
    assert (foreign / "sheets" / "train.png").is_file()


def test_configs_are_listed_and_copied(commands, foreign):
    listed = run([commands / "pe-spatial", "configs", "list"], foreign).stdout
    assert "pe_g_coco" in listed and "mine" in listed
    run([commands / "pe-spatial", "configs", "copy", "pe_g_coco", "copied.yaml"], foreign)
    shown = run([commands / "pe-spatial", "configs", "show", "copied.yaml"], foreign).stdout
    assert "variant: PE-Spatial-G14-448" in shown  # from a base that lies in the wheel


def test_the_wheel_and_a_foreign_package_of_a_task_name_do_not_meet(commands, tmp_path):
    program = "import detection, pe_spatial.detection as ours; print(detection.OWNER, ours.__name__, ours.MaskRCNN)"
    out = run([commands / "python", "-c", program], tmp_path).stdout
    assert out.startswith("somebody else pe_spatial.detection ")


def test_the_wheel_holds_every_package_and_recipe(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {"pe_spatial/py.typed"}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            expected.add(f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder)}")
    expected |= {f"pe_spatial/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    expected |= {f"pe_spatial/{path.relative_to(ROOT)}" for path in (ROOT / "configs" / "detectron2").glob("*.py")}
    assert not expected - names, f"missing in the wheel: {sorted(expected - names)[:5]}"
    assert {name.split("/")[0] for name in names} == {
        "pe_spatial",
        next(n for n in names if ".dist-info" in n).split("/")[0],
    }


def test_the_list_of_packages_is_that_of_the_folders():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split()) - {"pe_spatial.configs"}
    found = set()
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([package, *path.parent.relative_to(ROOT / folder).parts]))
    assert listed == found
