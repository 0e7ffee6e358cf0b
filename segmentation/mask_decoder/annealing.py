"""Masked attention that is annealed while a mask decoder is trained."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from pe_spatial.segmentation.mask_decoder.queries import masking_probabilities
from pe_spatial.training.checkpoint_hook import unwrap


@HOOKS.register_module()
class MaskAnnealingHook(Hook):
    """Restricts the attention of queries to their own masks, with probabilities that fall block after block.

    The probabilities depend on the number of the iteration alone (see `masking_probabilities`), so that a resumed run
    needs no state.
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the probabilities of this iteration."""
        model: Any = unwrap(runner.model)
        model.masking = masking_probabilities(runner.iter / runner.max_iters, len(model.masking))
