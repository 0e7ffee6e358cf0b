"""Whole runs with several teachers in turn, at random sizes and shifted apart: killed and resumed, in two processes."""

import signal

import pytest
import torch
from alignment_scenes import CORE
from test_alignment_runs import FSDP, ITERATIONS, assert_same, config, losses, run  # noqa: F401 - a fixture

from pe_spatial.backbones import PEBackbone
from pe_spatial.training.checkpoint import load_checkpoint

CHANGES = """
_base_: tiny.yaml
model:
  semantic: null
  locality: null
  teachers:
    one: {type: ModuleTeacher, backbone: &core {type: PEBackbone, variant: CORE}, layer: 1}
    two: {type: ModuleTeacher, backbone: *core, scale: 2}
    core: {_delete_: true, type: ModuleTeacher, backbone: *core, image_size: 32, resample: true}
  distill:
    one: {standardize: channels, freeze_after: 3, summary: 0.5, hidden: 0.25}
    two: {standardize: isotropic, freeze_after: 2, summary: 0.5}
    core: {summary: 0.5}
  alternate: true
  views: {sizes: [32, 48], shift: 1}
train_dataloader:
  dataset:
    pipeline:
      - {type: LoadImage}
      - {type: RandomAspect, size: [48, 48]}
      - {type: HideTokens, patch_size: 8}
      - {type: RandomShifts, most: 1, windows: 4}
      - {type: PackSample}
"""


@pytest.fixture(scope="module")
def several(config):  # noqa: F811 - the fixture
    """Teachers with random weights are the same in every process, which builds them from the seed of the run."""
    weights = config.parent / "core.pt"
    variant = f"{{{', '.join(f'{key}: {str(value).lower()}' for key, value in CORE.items())}}}, weights: {weights}"
    path = config.parent / "several.yaml"
    path.write_text(CHANGES.replace("CORE", variant, 1))
    return path


@pytest.fixture(scope="module")
def single(several, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several") / "run"
    assert run(several, folder) == [0]
    return folder


def final(folder):
    return load_checkpoint(folder / f"iter_{ITERATIONS}.pth")


def test_the_state_of_every_teacher_is_in_the_checkpoint(single):
    state = final(single)["state_dict"]
    assert int(state["steps"]) == ITERATIONS
    counted = {name: int(state[f"distillation.{name}.standardization.steps"]) for name in ("one", "two")}
    assert counted == {"one": 3, "two": 2}
    assert not any(key.startswith("teachers") for key in state)
    PEBackbone(CORE, weights=str(single / "student.pt"))


def test_a_killed_run_goes_on_to_the_same_bits(several, single, tmp_path):
    assert run(several, tmp_path / "run", kill_at=6) == [-signal.SIGKILL]
    assert run(several, tmp_path / "run", resume="yes") == [0]
    for key in ("state_dict", "optimizer", "param_schedulers"):
        assert_same(final(tmp_path / "run")[key], final(single)[key], 0)


@pytest.mark.parametrize("wrapper", [[], FSDP], ids=["ddp", "fsdp"])
def test_two_processes_train_as_one(several, single, tmp_path, wrapper):
    assert run(several, tmp_path / "two", "train_dataloader.batch_size=2", *wrapper, world_size=2) == [0, 0]
    torch.testing.assert_close(losses(tmp_path / "two"), losses(single), rtol=0, atol=2e-5)
    assert_same(final(tmp_path / "two")["state_dict"], final(single)["state_dict"], 1e-4)
