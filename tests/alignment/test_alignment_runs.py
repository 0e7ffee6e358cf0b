"""Whole runs: one process, two, sharded, killed and resumed; LAMB; export; trial on tracking; a loss that is NaN."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest
import torch
from alignment_scenes import CORE, scene, write_core
from children import CONTEXT
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image

from pe_spatial.backbones import PEBackbone
from pe_spatial.common.errors import DivergedError
from pe_spatial.training.checkpoint import load_checkpoint
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import train

ROOT = Path(__file__).resolve().parents[2]
TRUST = ["test_alignment_runs"]
ITERATIONS = 10
FSDP = ["model_wrapper_cfg={type: FullyShardedModel, units: [student.encoder.transformer.resblocks.*]}"]


@HOOKS.register_module()
class LossDiary(Hook):
    """Writes the losses of this rank, every iteration."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        path = Path(runner.work_dir) / f"losses_{os.environ.get('RANK', '0')}.jsonl"
        with path.open("a") as file:
            file.write(json.dumps({key: value.item() for key, value in outputs.items()}) + "\n")


CONFIG = """
_base_:
  - {root}/configs/_base_/runtime.yaml
  - {root}/configs/_base_/models/alignment.yaml
  - {root}/configs/_base_/schedules/lamb.yaml
custom_imports: {{imports: [pe_spatial.alignment, test_alignment_runs]}}
_core: &core {core}
model:
  student: {{variant: *core, weights: {weights}}}
  teachers: {{core: {{type: LayerTeacher, variant: *core, weights: {weights}, layer: 0.5}}}}
  semantic: {{teacher: core}}
  locality: {{teacher: core}}
train_dataloader:
  batch_size: 4
  num_workers: 0
  sampler: {{type: DrawSampler}}
  collate_fn: {{type: pseudo_collate}}
  dataset:
    type: ImageFolder
    source: {images}
    pipeline:
      - {{type: LoadImage}}
      - {{type: RandomAspect, size: [32, 32]}}
      - {{type: torchvision.transforms.v2.RandomHorizontalFlip}}
      - {{type: torchvision.transforms.v2.ColorJitter, brightness: 0.32, saturation: 0.32}}
      - {{type: HideTokens, patch_size: 8}}
      - {{type: PackSample}}
optim_wrapper: {{optimizer: {{lr: 1e-2}}}}
train_cfg: {{max_iters: {iterations}, val_interval: 5}}
custom_hooks: [{{type: LossDiary}}]
default_hooks:
  checkpoint: {{interval: 4}}
  pictures: null
  logger: {{interval: 2}}
  export: {{type: StudentExportHook}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    (folder / "images").mkdir()
    for number in range(10):
        write_png(scene(number, size=40)["inputs"], folder / "images" / f"{number}.png")
    weights = write_core(folder / "core.pt")
    values = {"root": ROOT, "core": json.dumps(CORE), "weights": weights, "images": folder / "images"}
    path = folder / "tiny.yaml"
    path.write_text(CONFIG.format(**values, iterations=ITERATIONS))
    return path


def load(path, work_dir, *overrides):
    config = load_config(path, overrides, TRUST)
    config.work_dir, config.experiment_name = str(work_dir), f"alignment_{work_dir.name}"
    return config


def child(path, work_dir, overrides, resume, rank, world_size, port, kill_at):
    if world_size > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_PORT=str(port))
        os.environ.update(LOCAL_WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    if kill_at:
        LossDiary.before_train_iter = lambda self, runner, **kwargs: (
            os.kill(os.getpid(), signal.SIGKILL) if runner.iter == kill_at else None
        )
    train(load(path, work_dir, *overrides), resume, trust=TRUST)
    torch.distributed.destroy_process_group() if torch.distributed.is_initialized() else None


def run(path, work_dir, *overrides, world_size=1, resume="no", kill_at=0):
    """Exit codes of the processes of a run."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = (path, work_dir, overrides, resume)
    processes = [CONTEXT.Process(target=child, args=(*shared, r, world_size, port, kill_at)) for r in range(world_size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    return [process.exitcode for process in processes]


def losses(folder):
    """[iterations, 3], the mean over ranks."""
    ranks = [
        [list(json.loads(line).values()) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("losses_*.jsonl"))
    ]
    return torch.tensor(ranks).mean(0)


def assert_same(ours, theirs, tolerance):
    if isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key], tolerance)
    elif isinstance(theirs, list | tuple):
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b, tolerance)
    else:
        assert ours == theirs


@pytest.fixture(scope="module")
def single(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("single") / "run"
    assert run(config, folder) == [0]
    return folder


@pytest.mark.parametrize("wrapper", [[], FSDP], ids=["ddp", "fsdp"])
def test_two_processes_train_as_one(config, single, tmp_path, wrapper):
    """Ten steps of LAMB at the same global batch: losses, weights, optimizer state and export."""
    assert run(config, tmp_path / "two", "train_dataloader.batch_size=2", *wrapper, world_size=2) == [0, 0]
    ours, theirs = losses(tmp_path / "two"), losses(single)
    assert ours.shape == (ITERATIONS, 3)
    assert theirs[-1, 0] < theirs[0, 0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
    for key in ("state_dict", "optimizer"):
        mine, reference = (load_checkpoint(f / f"iter_{ITERATIONS}.pth")[key] for f in (tmp_path / "two", single))
        assert_same(mine, reference, 1e-4)
    a, b = (PEBackbone(CORE, weights=str(folder / "student.pt")) for folder in (tmp_path / "two", single))
    assert_same(a.state_dict(), b.state_dict(), 1e-4)


def test_a_killed_run_goes_on_with_the_same_data(config, single, tmp_path):
    assert run(config, tmp_path / "run", kill_at=6) == [-signal.SIGKILL]
    assert run(config, tmp_path / "run", resume="yes") == [0]
    for key in ("state_dict", "optimizer", "param_schedulers"):
        ours, theirs = (load_checkpoint(f / f"iter_{ITERATIONS}.pth")[key] for f in (tmp_path / "run", single))
        assert_same(ours, theirs, 0)
    torch.testing.assert_close(losses(tmp_path / "run")[6:], losses(single)[4:], rtol=0, atol=0)


def test_accumulated_batches_are_one_batch(config, single, tmp_path):
    """Twice as many iterations of half the batch; the cosine is stretched with them, so the first step is compared."""
    overrides = ["train_dataloader.batch_size=2", "optim_wrapper.accumulative_counts=2", "train_cfg.max_iters=4"]
    runner = train(load(config, tmp_path / "run", *overrides), trust=TRUST)
    halves = losses(tmp_path / "run")
    torch.testing.assert_close(2 * halves[:2].mean(0), 2 * losses(single)[0], rtol=0, atol=1e-5)
    assert runner.optim_wrapper.optimizer.param_groups[0]["step"] == 2


def test_the_exported_student_is_an_official_file(config, single):
    """Official keys without prefix, strictly loaded, with the features of the student in the checkpoint."""
    state = load_checkpoint(single / "student.pt")
    assert set(state) == set(PEBackbone(CORE).encoder.state_dict())
    exported = PEBackbone(CORE, weights=str(single / "student.pt")).eval()
    checkpoint = PEBackbone(CORE, weights=str(single / f"iter_{ITERATIONS}.pth")).eval()
    initial = PEBackbone(CORE, weights=load_config(config, trust=TRUST).model.student.weights).eval()
    images = torch.randn(2, 3, 32, 48)
    assert torch.equal(exported(images)[0], checkpoint(images)[0])
    assert not torch.allclose(exported(images)[0], initial(images)[0])


def test_bf16_with_checkpointed_blocks_and_drop_path_trains(config, tmp_path):
    overrides = ["optim_wrapper.type=Bf16OptimWrapper", "model.student.checkpointing=true", "train_cfg.max_iters=3"]
    train(load(config, tmp_path / "run", *overrides, "model.student.drop_path=0.4"), trust=TRUST)
    assert losses(tmp_path / "run").isfinite().all()


def test_nan_stops_the_run_and_keeps_the_batch(config, tmp_path):
    with pytest.raises(DivergedError, match=r"iteration 1: .*The batch is in .*diverged_iter_1_rank_0.pth"):
        train(load(config, tmp_path / "run", "model.semantic={teacher: core, weight: .nan}"), trust=TRUST)
    kept = torch.load(tmp_path / "run" / "diverged_iter_1_rank_0.pth", weights_only=True)
    assert [image.shape for image in kept["inputs"]] == [(3, 32, 32)] * 4
    assert kept["data_samples"][0]["token_mask"]["data"].dtype == torch.bool
    assert kept["losses"]["loss_semantic"] != kept["losses"]["loss_semantic"]
    assert kept["iter"] == 1
    assert not list((tmp_path / "run").glob("iter_*.pth"))


VALIDATION = """
val_dataloader:
  batch_size: 2
  num_workers: 0
  sampler: {{type: DefaultSampler, shuffle: false}}
  collate_fn: {{type: pseudo_collate}}
  dataset:
    type: ImageFolder
    source: {images}
    test_mode: true
    pipeline:
      - {{type: LoadImage}}
      - {{type: torchvision.transforms.v2.Resize, size: [32, 32]}}
      - {{type: PackSample}}
val_evaluator: {{type: AlignmentMetric}}
val_cfg: {{}}
"""


def write_png(pixels, path):
    """uint8 [3, H, W], or [H, W]."""
    Image.fromarray(pixels.movedim(0, -1).numpy() if pixels.ndim == 3 else pixels.numpy()).save(path)


def write_video(folder):
    """Four frames of a square that moves by one token."""
    (folder / "JPEGImages" / "a").mkdir(parents=True)
    (folder / "Annotations" / "a").mkdir(parents=True)
    for number in range(4):
        ids = torch.zeros(32, 48, dtype=torch.uint8)
        ids[8:24, 8 + 8 * number : 24 + 8 * number] = 1
        write_png((ids * 150 + 50).expand(3, -1, -1).contiguous(), folder / "JPEGImages" / "a" / f"{number}.png")
        write_png(ids, folder / "Annotations" / "a" / f"{number}.png")


def test_validation_tries_the_student_on_tracking(config, tmp_path):
    """The student is left as it was: the run with trials has the weights of the one without."""
    write_video(tmp_path / "videos")
    trial = (
        "{type: StudentTrialHook, model: {type: VideoTracker, resizing: {short_side: 32}}, metric: {type: JFMetric}, "
        f"dataset: {{type: VideoFolder, data_root: {tmp_path / 'videos'}}}}}"
    )
    text = config.read_text() + VALIDATION.format(images=config.parent / "images")
    text = text.replace("[pe_spatial.alignment, ", "[pe_spatial.alignment, tracking, ")
    (tmp_path / "with.yaml").write_text(text.replace("{type: LossDiary}", f"{{type: LossDiary}}, {trial}"))
    changes = ["train_cfg.max_iters=4", "train_cfg.val_interval=2", "default_hooks.checkpoint.best=track/J&F"]
    runner = train(load(tmp_path / "with.yaml", tmp_path / "run", *changes), trust=TRUST)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    metrics = [record for record in records if record["mode"] == "val"]
    assert [record["iter"] for record in metrics] == [2, 4]
    assert metrics[0].keys() >= {
        "align/semantic_cosine",
        "align/locality_agreement",
        "align/locality_error",
        "align/global_tokens",
        "track/J&F",
    }
    assert 0 < metrics[-1]["track/J&F"] <= 1
    assert json.loads((tmp_path / "run" / "best_checkpoint.json").read_text())["metric"] == "track/J&F"
    plain = train(load(config, tmp_path / "plain", "train_cfg.max_iters=4"), trust=TRUST)
    assert_same(runner.model.state_dict(), plain.model.state_dict(), 0)
    assert all(parameter.requires_grad for parameter in runner.model.parameters())
