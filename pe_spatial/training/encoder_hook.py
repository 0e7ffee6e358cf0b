"""The hook that knows of encoders which checkpoints do without; see `pe_spatial.training.frozen_encoders`."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from pe_spatial.backbones import PEBackbone, TimmBackbone
from pe_spatial.backbones.lora import adapters
from pe_spatial.training.checkpoint import plain_path
from pe_spatial.training.checkpoint_hook import unwrap
from pe_spatial.training.frozen_encoders import is_as_loaded, restore_encoders, separable_backbones


class FrozenEncoderHook(Hook):
    """Completes a checkpoint that does without its encoder, before any other hook sees it."""

    priority = "HIGHEST"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Complete it."""
        restore_encoders(checkpoint, dict(separable_backbones(unwrap(runner.model))), plain_path(runner._load_from))

    def before_train(self, runner: Runner) -> None:
        """Say what is trained, and what checkpoints will hold."""
        for prefix, backbone in separable_backbones(unwrap(runner.model)):
            runner.logger.info(f"{prefix}encoder: {_describe(backbone)}")


def _describe(backbone: PEBackbone | TimmBackbone) -> str:
    state, origin = backbone.frozen_state(), backbone.origin
    frozen = sum(tensor.numel() for tensor in state.values())
    is_elsewhere = origin is not None and is_as_loaded(origin, state)
    kept = f"remove it, because it is in {origin.source}" if origin and is_elsewhere else "hold it whole"
    if isinstance(backbone, TimmBackbone):
        return f"{backbone.model} with {frozen:,} numbers is frozen; checkpoints {kept}"
    found = [adapter for _, _, adapter in adapters(backbone.encoder.transformer.resblocks)]
    trained = sum(parameter.numel() for adapter in found for parameter in adapter.parameters())
    return (
        f"{len(found)} adapters of rank {found[0].down.shape[0]} with {trained:,} parameters are trained, "
        f"{frozen:,} are frozen; checkpoints {kept}"
    )
