"""Configs, checkpoints, hooks and distribution for any model with mmengine's interface; the engine knows no task.

Importing this package registers its hooks, wrappers and constructors with mmengine.
"""

from pe_spatial.training import (
    amp,
    binding,
    checkpoint_hook,
    estimate,
    feature_cache_hook,
    fsdp,
    guards,
    loggers,
    optim,
    picture_hook,
    planner,
    progress,
    report,
)
