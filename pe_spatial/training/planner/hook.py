"""What a run was predicted to take, and what it has taken, in its result card."""

import json
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from pe_spatial.common.devices import forget_peak, peak_memory
from pe_spatial.common.errors import UserError, require_positive
from pe_spatial.common.files import write_json
from pe_spatial.common.memory import gigabytes, process_memory
from pe_spatial.common.reading import read_text
from pe_spatial.training.checkpoint_hook import unwrap
from pe_spatial.training.planner.devices import CARD, ENTRY
from pe_spatial.training.planner.planning import predict
from pe_spatial.training.planner.tracking import teachers_of
from pe_spatial.training.progress import is_training


@HOOKS.register_module()
class PlanHook(Hook):
    """Predicts a training before it begins, and writes prediction and measurement into its result card.

    `pe-spatial plan --cards` learns from these cards. A prediction takes as long as a few iterations, so that a short
    run goes without.

    Args:
        shortest: Iterations from which a run is predicted.
    """

    priority = "LOW"  # after RunReportHook, which writes the card

    def __init__(self, shortest: int = 200) -> None:
        require_positive(shortest=shortest)
        self.shortest = shortest
        self._entry: dict[str, Any] = {}
        self._peak_before = self._held_before = 0.0
        self._first = 0

    def before_train(self, runner: Runner) -> None:
        """Predict, on the main process."""
        self._first = runner.iter
        if not is_main_process():
            return
        parts = (runner.model, *teachers_of(unwrap(runner.model)))  # frozen teachers are no parts of a model
        weights = sum(each.numel() * each.element_size() for part in parts for each in part.parameters())
        self._held_before = process_memory() - weights
        self._entry = self._predict(runner)
        forget_peak()  # that of building the model and of the prediction
        self._peak_before = peak_memory()

    def _predict(self, runner: Runner) -> dict[str, Any]:
        left = runner.max_iters - runner.iter
        if left < self.shortest:
            return {"not_predicted": f"{left} iterations are fewer than {self.shortest}"}
        try:
            row = predict(runner.cfg)
        except UserError as error:
            return {"not_predicted": str(error)}
        except Exception as error:  # noqa: BLE001 - an estimate must not stop a training
            runner.logger.warning(f"memory and time are not predicted: {error}")
            return {"not_predicted": f"{type(error).__name__}: {error}"}
        time = "" if row.seconds is None else f" and {row.seconds:.3g} s per image"
        runner.logger.info(f"predicted: {gigabytes(row.memory)}{time}, estimates from small steps")
        return {
            "predicted_memory_gb": round(row.memory / 1e9, 4),
            "predicted_seconds_per_image": row.seconds,
            "image_size": list(row.image_size),
            "checkpointing": row.variation.checkpointing,
            "precision": row.variation.precision,
            "tuning": row.variation.tuning,
        }

    def after_train(self, runner: Runner) -> None:
        """Complete the card."""
        path = Path(runner.work_dir) / CARD
        if not is_main_process() or not is_training(runner) or not path.is_file():
            return
        if runner.iter == self._first:  # a finished run that was resumed keeps its card
            return
        times = runner.message_hub.get_scalar("train/time").data[0]
        batch = runner.train_dataloader.batch_size
        measured = {
            "measured_memory_gb": self._measured(),
            "measured_seconds_per_image": round(float(median(times)) / batch, 5) if len(times) else None,
            "batch": batch,
        }
        write_json(path, json.loads(read_text(path)) | {ENTRY: self._entry | measured})

    def _measured(self) -> float | None:
        """GB of tensors and libraries; None where an earlier peak of the process hides that of the run."""
        peak = peak_memory()
        if torch.cuda.is_available():
            return round(peak, 4)
        return None if peak <= self._peak_before else round(peak - self._held_before / 1e9, 4)
