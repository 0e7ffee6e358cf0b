"""Configs, training, checkpoints and prediction for any model with mmengine's interface; the engine knows no task.

Importing this package registers its hooks, wrappers and constructors with mmengine, replaces mmengine's YAML reader by
a safe one and its loader of local checkpoints by one that never unpickles.
"""

from pe_spatial.engine.amp import Bf16OptimWrapper
from pe_spatial.engine.binding import BindDatasetHook
from pe_spatial.engine.checkpoint import find_best, find_last, load_checkpoint, save_checkpoint
from pe_spatial.engine.checkpoint_hook import AtomicCheckpointHook, describe
from pe_spatial.engine.config import find_config, load_config
from pe_spatial.engine.doctor import DataCheckHook
from pe_spatial.engine.errors import CheckpointError, ConfigError, DivergedError, UserError
from pe_spatial.engine.fsdp import FullyShardedModel, FullyShardHook
from pe_spatial.engine.guards import IterationSeedHook, LossGuardHook
from pe_spatial.engine.optim import LayerDecayConstructor
from pe_spatial.engine.pictures import PictureHook, draw_prediction
from pe_spatial.engine.predictor import Predictor
from pe_spatial.engine.progress import ProgressHook
from pe_spatial.engine.report import RunReportHook
from pe_spatial.engine.stream import Prediction, Source, find_sources, stream

__all__ = [
    "AtomicCheckpointHook",
    "Bf16OptimWrapper",
    "BindDatasetHook",
    "CheckpointError",
    "ConfigError",
    "DataCheckHook",
    "DivergedError",
    "FullyShardHook",
    "FullyShardedModel",
    "IterationSeedHook",
    "LayerDecayConstructor",
    "LossGuardHook",
    "PictureHook",
    "Prediction",
    "Predictor",
    "ProgressHook",
    "RunReportHook",
    "Source",
    "UserError",
    "describe",
    "draw_prediction",
    "find_best",
    "find_config",
    "find_last",
    "find_sources",
    "load_checkpoint",
    "load_config",
    "save_checkpoint",
    "stream",
]
