"""Starting from the weights of another DETA."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from pe_spatial.common.errors import CheckpointError, ConfigError, suggest
from pe_spatial.training.checkpoint import plain_path
from pe_spatial.training.checkpoint_hook import unwrap

_SIZES = {"classes": "transformer.class_embed.0.weight", "feature levels": "transformer.level_embed"}
_REMEDY = {"classes": "model.num_classes", "feature levels": "model.neck.levels"}


@HOOKS.register_module()
class DetaStartHook(Hook):
    """Compares a checkpoint with the model before it is loaded, and leaves out what is to be learned anew.

    Args:
        reinitialize: Parts of the model that a training starts without although the checkpoint has them, for example
            `class_embed`, the heads of the classes. Resuming and scoring load everything.

    Raises:
        CheckpointError: The checkpoint has another number of classes or of feature levels.
        ConfigError: a part that the model does not have.
    """

    def __init__(self, reinitialize: Sequence[str] = ()) -> None:
        self.reinitialize = tuple(reinitialize)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check, and drop."""
        model = unwrap(runner.model)
        state = checkpoint.get("state_dict", checkpoint)
        path = plain_path(runner._load_from)
        starts = runner._train_loop is not None and not runner._resume
        dropped = drop_parts(model, state, self.reinitialize) if starts else []
        compare_sizes(model, state, path, starts)
        if dropped:
            runner.logger.info(f"{path}: left out {len(dropped)} tensors of {', '.join(self.reinitialize)}")


def drop_parts(model: nn.Module, state: dict[str, Tensor], parts: Sequence[str]) -> list[str]:
    """Remove from a state dict the tensors below modules or parameters with these names; returns their keys."""
    known = {word for key in model.state_dict() for word in key.split(".") if not word.isdigit()}
    for part in parts:
        if part not in known:
            raise ConfigError(f"reinitialize: the model has no part {part!r}; {suggest(part, known)}")
    dropped = [key for key in state if not set(parts).isdisjoint(key.split("."))]
    for key in dropped:
        del state[key]
    return dropped


def compare_sizes(model: nn.Module, state: Mapping[str, Tensor], source: str, starts: bool) -> None:
    """Compare classes and feature levels of a state dict with those of a model.

    Args:
        model: a `DETA`.
        state: Its keys may lack a part.
        source: Of the state dict, for the message.
        starts: Whether a training starts from it, so that it may do without a part.
    """
    ours = model.state_dict()
    for what, key in _SIZES.items():
        if key not in state or len(state[key]) == len(ours[key]):
            continue
        remedy = f"set {_REMEDY[what]}={len(state[key])}, or use another checkpoint"
        if what == "classes" and starts:
            remedy = (
                "to train the class heads from scratch, set default_hooks.start.reinitialize=[class_embed]; "
                f"else {remedy}"
            )
        raise CheckpointError(f"{source} has {len(state[key])} {what}, the model {len(ours[key])}; {remedy}")
