"""Masked attention that goes away while a mask decoder is trained."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from pe_spatial.segmentation.mask_decoder.queries import masking_probabilities


@HOOKS.register_module()
class MaskAnnealingHook(Hook):
    """Confines queries to their own masks at first, and block after block no more (see `masking_probabilities`).

    What holds in an iteration is a function of its number, so that nothing is stored for a resume.
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the probabilities of this iteration."""
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        model.masking = masking_probabilities(runner.iter / runner.max_iters, len(model.masking))
