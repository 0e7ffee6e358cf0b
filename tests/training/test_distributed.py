"""Several processes (gloo, CPU) compute what one computes with the same global batch."""

import json
import os

import pytest
import torch
import toy_task
from processes import launch

from pe_spatial.common.errors import UserError
from pe_spatial.training.checkpoint import load_checkpoint, read_best
from pe_spatial.training.distributed import adopt_slurm

FSDP = ["model_wrapper_cfg={type: FullyShardedModel, units: [backbone.blocks.*]}"]


def weights(folder, iteration=6):
    return load_checkpoint(folder / f"iter_{iteration}.pth")["state_dict"]


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [[line[key] for key in ("loss", "loss_box", "grad_norm")] for line in lines if line["mode"] == "train"]


def assert_close(ours, theirs, tolerance=1e-6):
    assert ours.keys() == theirs.keys()
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    images = toy_task.write_images(folder / "images")
    config = toy_task.write_config(folder, images, max_iters=6, val_interval=6, batch_size=4, dropout=0.0)
    launch(config, folder / "run", world_size=1)
    return config, folder / "run"


HALF = ["train_dataloader.batch_size=2"]


@pytest.fixture(scope="module")
def replicated(single, tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicated")
    launch(single[0], folder, overrides=HALF)
    return folder


def test_two_processes_equal_one(single, replicated):
    _, reference = single
    assert_close(weights(replicated), weights(reference))
    # what is logged is the main process's half of the batch; that the gradients agree shows in their norm
    norms, expected = (torch.tensor([row[2] for row in losses(folder)]) for folder in (replicated, reference))
    torch.testing.assert_close(norms, expected, rtol=0, atol=1e-5)


def test_sharded_equals_replicated_and_resumes(single, replicated, tmp_path):
    config, reference = single
    launch(config, tmp_path, overrides=[*HALF, *FSDP])
    assert_close(weights(tmp_path), weights(reference))
    torch.testing.assert_close(losses(tmp_path), losses(replicated), rtol=0, atol=1e-5)

    # leave the state of iteration 3 only, and go on
    (tmp_path / "iter_6.pth").unlink()
    launch(config, tmp_path, overrides=[*HALF, *FSDP], resume="yes")
    resumed, expected = (load_checkpoint(folder / "iter_6.pth") for folder in (tmp_path, replicated))
    assert_close(resumed["state_dict"], expected["state_dict"])
    assert resumed["param_schedulers"] == expected["param_schedulers"]
    ours, theirs = resumed["optimizer"], expected["optimizer"]
    assert ours["param_groups"] == theirs["param_groups"]
    for index, entries in theirs["state"].items():
        assert_close(ours["state"][index], entries)

    # a checkpoint of shards is a checkpoint like any other
    launch(config, tmp_path, overrides=FSDP, resume="evaluate")
    card = json.loads((tmp_path / "evaluation" / "result.json").read_text())
    assert card["metrics"]["toy/score"] == pytest.approx(read_best(tmp_path)["score"], abs=1e-6)


SLURM = {
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "123456",
}


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A stand-in for Slurm's command that lists the hosts of a node list."""
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\ntest "$*" = "show hostnames node[07-08]" && printf "node07\\nnode08\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_slurm_variables_become_those_of_torchrun(scontrol):
    environment = dict(SLURM)
    adopt_slurm(environment)
    assert {
        key: environment[key] for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    } == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "node07",
    }
    assert 20000 <= int(environment["MASTER_PORT"]) < 40000


def test_a_shell_inside_a_slurm_job_is_one_process():
    environment = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "node07"}
    before = dict(environment)
    adopt_slurm(environment)
    assert environment == before


def test_torchrun_inside_slurm_keeps_its_ranks():
    environment = SLURM | {"RANK": "1", "WORLD_SIZE": "2"}
    adopt_slurm(environment)
    assert environment["RANK"] == "1"
    assert environment["WORLD_SIZE"] == "2"


def test_no_scontrol_names_the_remedy(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="MASTER_ADDR"):
        adopt_slurm(dict(SLURM))
