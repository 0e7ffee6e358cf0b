"""A task of a few hundred parameters: a box from the mean colors of a small image."""

import itertools
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.structures import InstanceData
from PIL import Image
from torch import nn

from pe_spatial.data import DenseDataset
from pe_spatial.training.config import load_config


def snapshot(folder):
    """Every file of a folder and its content; locks are no results."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@DATASETS.register_module()
class ToyImages(DenseDataset):
    """Images of one folder; the target is a function of the file's name."""

    METAINFO = {"classes": ("dark", "bright")}

    def load_data_list(self):
        folder = Path(self.data_root)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder of images")
        return [{"img_path": str(path), "img_id": i} for i, path in enumerate(sorted(folder.glob("*.png")))]


class ToyBackbone(nn.Module):
    num_layers = 3

    def __init__(self, width, dropout=0.0):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.Dropout(dropout)) for _ in range(2)
        )

    def layer_of(self, name):
        return 0 if name.startswith("embed") else 1 + int(name.split(".")[1])

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return x.mean((2, 3))


@MODELS.register_module()
class ToyModel(BaseModel):
    def __init__(self, width=8, dropout=0.0, explode_at=None, weights=None, backbone=None, data_preprocessor=None):
        super().__init__(data_preprocessor=data_preprocessor)
        if weights is not None:
            raise FileNotFoundError(f"{weights}: no such weights")
        self.backbone = ToyBackbone(width, dropout) if backbone is None else MODELS.build(backbone)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 4)
        self.explode_at = explode_at
        self.steps = 0

    def forward(self, inputs, data_samples=None, mode="tensor"):
        x = self.backbone(inputs)
        x = x[0].mean((2, 3)) if isinstance(x, tuple) else x
        x = self.head(self.norm(x))
        if mode == "tensor":
            return x
        if mode == "loss":
            self.steps += 1
            scale = float("nan") if self.steps == self.explode_at else 1.0
            target = torch.tensor([[s.metainfo["img_id"] % 3 - 1.0] * 4 for s in data_samples], device=x.device)
            return {"loss_box": F.mse_loss(x.float(), target) * scale, "loss_size": x.float().square().mean() * 0.01}
        for row, sample in zip(x.float().sigmoid(), data_samples, strict=True):
            H, W = sample.metainfo["ori_shape"]
            boxes = torch.stack([row[:2] * 0.5, row[:2] * 0.5 + row[2:] * 0.5]).reshape(1, 4)
            boxes = boxes * torch.tensor([W, H, W, H], device=x.device)
            sample.pred_instances = InstanceData(bboxes=boxes, scores=row[:1], labels=torch.tensor([1]))
        return data_samples


@METRICS.register_module()
class ToyMetric(BaseMetric):
    default_prefix = "toy"

    def process(self, data_batch, data_samples):
        self.results += [float(sample["pred_instances"]["scores"].sum()) for sample in data_samples]

    def compute_metrics(self, results):
        return {"score": float(np.mean(results))}


def write_images(folder, count=12, size=(24, 32)):
    """Noise images of one size below `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def write_config(folder, images, **changes):
    """A config for `tools/train_net.py`; `changes` replace lines of the template by name."""
    values = {
        "max_iters": 12,
        "val_interval": 4,
        "batch_size": 2,
        "num_workers": 0,
        "wrapper": "OptimWrapper",
        "accumulate": 1,
        "dropout": 0.2,
        "save": 3,
        "pictures": "null",
    } | changes
    values["runtime"] = Path(__file__).resolve().parents[2] / "configs" / "_base_" / "runtime.yaml"
    path = Path(folder) / "toy.yaml"
    path.write_text(TEMPLATE.format(**values, images=images))
    return path


def load(path, work_dir, *overrides):
    """A loaded config with a work folder. mmengine keeps loggers by name and second: no two runs may share both."""
    config = load_config(path, overrides)
    config.work_dir = str(work_dir)
    config.experiment_name = f"toy{next(_runs)}"
    return config


_runs = itertools.count()


def environment():
    """For subprocesses: this folder importable, one thread."""
    here = Path(__file__).resolve().parent
    paths = [str(here.parents[1]), str(here), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


TEMPLATE = """
_base_: [{runtime}]
custom_imports: {{imports: [toy_task]}}
_pipeline: &pipeline
  - {{type: LoadImage}}
  - {{type: torchvision.transforms.v2.RandomHorizontalFlip, p: 0.5}}
  - {{type: PackSample}}
model:
  type: ToyModel
  dropout: {dropout}
  data_preprocessor: {{type: DensePreprocessor, mean: [127.5, 127.5, 127.5], std: [127.5, 127.5, 127.5]}}
train_dataloader:
  batch_size: {batch_size}
  num_workers: {num_workers}
  persistent_workers: true
  sampler: {{type: DrawSampler}}
  dataset: {{type: ToyImages, data_root: {images}, pipeline: *pipeline}}
val_dataloader:
  batch_size: 1
  num_workers: 0
  sampler: {{type: DefaultSampler, shuffle: false}}
  dataset:
    type: ToyImages
    data_root: {images}
    test_mode: true
    pipeline: [{{type: LoadImage}}, {{type: LoadInstances, masks: false}}, {{type: PackSample}}]
val_evaluator: {{type: ToyMetric}}
optim_wrapper:
  type: {wrapper}
  accumulative_counts: {accumulate}
  optimizer: {{type: AdamW, lr: 1e-2, weight_decay: 0.1}}
  constructor: LayerDecayConstructor
  paramwise_cfg: {{layer_decay: 0.9}}
  clip_grad: {{max_norm: 1.0}}
param_scheduler:
  - {{type: LinearLR, start_factor: 0.1, by_epoch: false, begin: 0, end: 4}}
  - {{type: CosineAnnealingLR, by_epoch: false, begin: 4, end: {max_iters}}}
train_cfg: {{by_epoch: false, max_iters: {max_iters}, val_interval: {val_interval}}}
val_cfg: {{}}
default_hooks:
  logger: {{interval: 2}}
  checkpoint: {{interval: {save}, best: toy/score}}
  pictures: {pictures}
"""
