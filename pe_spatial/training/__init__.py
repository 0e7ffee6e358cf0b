"""Configs, checkpoints, hooks and distribution for any model with mmengine's interface; the engine knows no task.

Importing this package registers its hooks, wrappers and constructors with mmengine.
"""

from pe_spatial.training.amp import Bf16OptimWrapper
from pe_spatial.training.binding import BindDatasetHook
from pe_spatial.training.checkpoint import find_best, find_last, load_checkpoint, save_checkpoint
from pe_spatial.training.checkpoint_hook import AtomicCheckpointHook, describe
from pe_spatial.training.config import dump_config, load_config
from pe_spatial.training.config_files import find_config, list_configs
from pe_spatial.training.fsdp import FullyShardedModel, FullyShardHook
from pe_spatial.training.guards import IterationSeedHook, LossGuardHook
from pe_spatial.training.optim import LayerDecayConstructor
from pe_spatial.training.picture_hook import PictureHook
from pe_spatial.training.progress import ProgressHook
from pe_spatial.training.report import RunReportHook
