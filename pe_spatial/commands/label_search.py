"""The part of `pe-spatial check` that asks a trained model which labels it contradicts.

`<task>/label_errors.py` compares labels and predictions: its class `LabelErrors` has `load`, `add` and `rank`.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pe_spatial.common.console import track
from pe_spatial.common.errors import UserError, few
from pe_spatial.common.files import write_json
from pe_spatial.data.loading import instance_mask
from pe_spatial.doctor import (
    ExaminationOptions,
    Finding,
    SplitReport,
    Suspect,
    as_json,
    attempting,
    describe,
    draw_suspect,
    findings_of,
    in_threads,
    load_sample,
    sample_order,
)
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.tasks import task_of

LIST = "label_errors.json"


class LabelSearch:
    """Compares the labels of datasets with the predictions of a model.

    Args:
        options: Of the command: `checkpoint`, `device`, `batch_size`, `allow_import`, `max_pixels`.

    Raises:
        UserError: A checkpoint that cannot be used, or one of a task whose labels cannot be compared.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.predictor = Predictor(options.checkpoint, options.device, options.batch_size)
        task = task_of(self.predictor.config, self.predictor.checkpoint).name
        module = f"pe_spatial.{task}.label_errors"
        if find_spec(module) is None:
            raise UserError(
                f"{self.predictor.checkpoint} has a model for {task}, and only a detector can be compared with "
                "labels; give a detector, or remove --checkpoint"
            )
        self._errors = import_module(module).LabelErrors
        self._entries: list[dict[str, Any]] = []

    def search(self, reports: Sequence[SplitReport], options: ExaminationOptions) -> None:
        """Add what is suspected to the findings of every dataset, with pictures of the gravest."""
        for report in reports:
            if report.dataset is None:
                continue  # it could not be loaded, which is among the findings
            with attempting(report.findings.add, "the model cannot be asked about the labels"):
                suspects = self._suspects(report, options)
                report.findings.add(findings_of(suspects, report.dataset))
                self._entries += [{"split": report.split, **as_json(item, report.dataset)} for item in suspects]
                shown = suspects[: options.tiles]
                report.suspects = [_draw(number, item, report.dataset) for number, item in enumerate(shown, 1)]

    def write(self, output: Path) -> Path:
        """Write the list of all datasets; returns its path."""
        path = output / LIST
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"checkpoint": str(self.predictor.checkpoint), "suspects": self._entries})
        return path

    def _suspects(self, report: SplitReport, options: ExaminationOptions) -> list[Suspect]:
        """What the model contradicts in one dataset, the gravest first."""
        dataset, classes = report.dataset, list(report.dataset.metainfo.get("classes") or ())
        if "instances" not in dataset.get_data_info(0):
            report.findings.add([Finding("note", "the labels are not objects, and are not compared with the model")])
            return []
        order_of_classes = _relabel(self.predictor.classes, classes, self.predictor.checkpoint)
        errors = self._errors(classes)
        order = sample_order(len(dataset), options)
        asked = in_threads(partial(_load, self._errors, self.predictor, dataset), order, options)
        waiting: list[tuple[int, Any, Any]] = []
        unloadable: list[str] = []

        def ask() -> None:
            predictions = self.predictor.predict([view for _, _, views in waiting for view in views])
            for prediction in predictions:
                prediction.pred_instances.labels = order_of_classes[prediction.pred_instances.labels.cpu()]
            for (index, labels, _), *views in zip(waiting, predictions[::2], predictions[1::2], strict=True):
                errors.add(index, labels, *views)
            waiting.clear()

        for index, loaded in track(asked, f"{report.split}: model", len(order), "samples"):
            if isinstance(loaded, str):
                unloadable.append(loaded)
            else:
                waiting.append((index, *loaded))
            if len(waiting) == self.predictor.batch_size:
                ask()
        ask()
        rule = "samples that cannot be compared with the model"
        report.findings.add(Finding("error", rule, reason) for reason in unloadable)
        return errors.rank()


def _load(errors: Any, predictor: Predictor, dataset: Any, index: int) -> tuple[Any, Any] | str:  # noqa: ANN401
    """The labels of a sample and its picture, prepared as it is and mirrored; or why there are none."""
    try:
        sample = load_sample(dataset, dataset.get_data_info(index), labels=False)
        views = sample["img"], sample["img"].flip(-1)
        return errors.load(sample), [predictor.prepare(view) for view in views]
    except Exception as error:  # noqa: BLE001 - becomes a finding
        return describe(error)


def _relabel(names: Sequence[str], classes: Sequence[str], checkpoint: Path) -> Tensor:
    """For every label of the model that of the dataset.

    Raises:
        UserError: They do not tell apart the same classes.
    """
    if sorted(names) != sorted(classes):
        others = sorted(set(names) ^ set(classes))
        raise UserError(
            f"{checkpoint} and the data do not have the same classes; only one of them has: {few(others, 8)}"
        )
    return torch.tensor([list(classes).index(name) for name in names])


def _draw(number: int, suspect: Suspect, dataset: Any) -> Tensor:  # noqa: ANN401 - mmengine's
    """The picture of a suspect."""
    record = dataset.get_data_info(suspect.sample)
    sample = load_sample(dataset, record, labels=False)
    image, mask = sample["img"], None
    if suspect.row is not None and "mask" in record["instances"][suspect.row]:
        size = (int(image.shape[-2]), int(image.shape[-1]))
        mask = torch.from_numpy(instance_mask(record, record["instances"][suspect.row], size))
    return draw_suspect(number, suspect, image, record, mask)
