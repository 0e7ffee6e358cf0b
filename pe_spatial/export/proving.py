"""Whether an exported file does what the model does: by the metric on data, by numbers on random inputs; its time."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pe_spatial import __version__
from pe_spatial.common.console import Bar, print_note, progress, track
from pe_spatial.common.devices import available_cores, device_name
from pe_spatial.common.errors import few
from pe_spatial.engines.bridge import engine_of
from pe_spatial.engines.header import Header
from pe_spatial.engines.sessions import RUNS, is_installed, open_session
from pe_spatial.export.graphs import example_inputs
from pe_spatial.export.layers import LayerDrift, Traced, Values, compare_layers, values_of
from pe_spatial.export.options import ExportOptions
from pe_spatial.export.subjects import Score, Subject
from pe_spatial.training.explanation import Measure

# of random inputs: what float32 may be off by, relative to the deviation of an output
_ROUNDING = 1e-3
_SECONDS = 6.0  # that timing may take for torch and for every engine


@dataclass(frozen=True)
class Tolerance:
    """How far a file may be off.

    Args:
        points: Of a metric in percent; of others, percent of the model's value.
        drift: Of outputs for random inputs, in deviations, where nothing but rounding should differ (fp32).
    """

    points: float = 0.2
    drift: float = _ROUNDING

    def difference(self, measure: Measure, ours: float | None, theirs: float | None) -> float:
        """How many points worse the file is; below zero where it is better.

        Undefined numbers agree with each other alone.
        """
        if ours is None or theirs is None:
            return 0.0 if ours is theirs else float("inf")
        sign = 1.0 if measure.higher_is_better else -1.0
        scale = measure.factor if measure.unit == "%" else 100 / max(abs(ours), 1e-12)
        return sign * (ours - theirs) * scale


@dataclass
class EngineProof:
    """What was measured of a file in one engine.

    Args:
        engine: Its name.
        score: On data; None where it was left out.
        lost: Points by measure.
        outputs: The largest difference of every output for random inputs, and the same in deviations.
        layers: Their drift, in the order of the graph; empty where the format shows none.
        seconds: Of a pass.
        torch_seconds: Of a pass of the model in torch, in turn with it.
        problems: Why the proof does not hold; empty where it does.
    """

    engine: str
    score: Score | None = None
    lost: dict[str, float] = field(default_factory=dict)
    outputs: dict[str, dict[str, float]] = field(default_factory=dict)
    layers: list[LayerDrift] = field(default_factory=list)
    seconds: float = float("nan")
    torch_seconds: float = float("nan")
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the proof holds."""
        return not self.problems

    @property
    def suspects(self) -> list[LayerDrift]:
        """Layers in which the drift grows, the most first."""
        return sorted((drift for drift in self.layers if drift.grown > 0), key=lambda drift: -drift.grown)

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "passed": self.passed,
            "problems": self.problems,
            "metrics": None if self.score is None else dict(self.score.values),
            "points_lost": {name: _json(value) for name, value in self.lost.items()},
            "random_inputs": self.outputs,
            "seconds": self.seconds,
            "torch_seconds": self.torch_seconds,
            "speedup": self.torch_seconds / self.seconds,
            "layers": [
                {key: _json(value) if isinstance(value, float) else value for key, value in drift.record().items()}
                for drift in self.layers
            ],
        }


@dataclass
class Reference:
    """What the model gives for the random inputs of the proof: computed once, for all engines.

    Args:
        subject: What was exported.
        options: Of the export, which say what sizes and batches a file takes.
    """

    subject: Subject
    options: ExportOptions
    _outputs: list[tuple[Tensor, ...]] = field(default_factory=list, init=False)
    _values: tuple[Traced, Values] | None = field(default=None, init=False)

    def trials(self) -> list[tuple[tuple[int, int], int]]:
        """Sizes and batches that a file is tried with: several where they are open."""
        batches = [self.options.batch] if self.options.batch is not None else [1, 3]
        if self.options.image_size is not None:
            return [(self.options.image_size, batch) for batch in batches]
        multiple = self.subject.graph.multiple
        sizes = [(6 * multiple, 9 * multiple), (4 * multiple, 4 * multiple)]
        return [(size, batch) for size in sizes for batch in batches]

    def inputs(self, trial: int) -> tuple[Tensor, ...]:
        """Of one trial."""
        size, batch = self.trials()[trial]
        return example_inputs(self.subject.graph, size, batch, seed=1)

    @torch.no_grad()
    def outputs(self, trial: int) -> tuple[Tensor, ...]:
        """Of the model for the inputs of a trial; trials are asked for in their order."""
        if trial == len(self._outputs):
            self._outputs.append(self.subject.graph.module(*self.inputs(trial)))
        return self._outputs[trial]

    def values(self, traced: Traced) -> Values:
        """Inside the program for the inputs of the first trial: those that the graph has too."""
        if self._values is None or self._values[0] is not traced:  # each attempt of a repair has another graph
            self._values = traced, values_of(traced, self.inputs(0))
        return self._values[1]


def prove(
    file: Path,
    header: Header,
    engine: str,
    reference: Reference,
    expected: Score | None,
    traced: Traced,
    tolerance: Tolerance,
) -> EngineProof:
    """Judge a file in an engine; `time_engines` adds its times.

    Args:
        file: The exported file.
        header: Of it.
        engine: That runs it.
        reference: What the model gives.
        expected: The score of the model in torch; None leaves the metric out.
        traced: What the file was made of.
        tolerance: How far it may be off.
    """
    proof = EngineProof(engine)
    trials = range(len(reference.trials()))
    with progress(f"random inputs in {engine}", len(trials) + 1, "trials") as bar:
        _compare_trials(proof, file, header, reference, bar)
        bar.advance(0, f"layers in {engine}")
        if traced.proto is not None:
            proof.layers = compare_layers(traced, header, engine, reference.inputs(0), reference.values(traced))
        bar.advance()
    _judge_drift(proof, header, tolerance)
    if expected is not None:
        print_note(f"computing the metric in {engine}")
        proof.score = reference.subject.score(file, engine)
        _judge_score(proof, expected, tolerance)
    return proof


def time_engines(file: Path, header: Header, proofs: Sequence[EngineProof], reference: Reference) -> None:
    """Note how long a pass takes in torch and in every engine, all in turn.

    Args:
        file: The exported file.
        header: Of it.
        proofs: One for each engine; get their times.
        reference: What was exported, and how often a pass is timed.
    """
    graph = reference.subject.graph
    inputs = example_inputs(graph, header.size or reference.subject.default_size, header.batch or 1)
    print_note(f"timing torch and {few([proof.engine for proof in proofs])}")
    runs: list[Callable[..., Any]] = [graph.module]
    runs += [engine_of(open_session(file, proof.engine)[0], header) for proof in proofs]
    passes = [partial(run, *inputs) for run in runs]
    ours, *theirs = _time_in_turn(passes, reference.options.rounds)
    for proof, seconds in zip(proofs, theirs, strict=True):
        proof.torch_seconds, proof.seconds = ours, seconds


def engines_for(file: Path) -> list[str]:
    """The installed engines that run a file on this machine's CPU."""
    return [name for name in RUNS[file.suffix] if name != "tensorrt" and is_installed(name)]


def machine() -> dict[str, Any]:
    """Where something was measured."""
    return {
        "device": device_name("cpu"),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Of the packages that take part."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"pe_spatial": __version__}
    for name in ("torch", "onnx", "onnxscript", "onnxruntime", "openvino"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# --- parts ------------------------------------------------------------------------------------------------------------
@torch.no_grad()
def _compare_trials(proof: EngineProof, file: Path, header: Header, reference: Reference, bar: Bar) -> None:
    """Note the largest difference of every output over all trials; the session ends here, before others begin."""
    run = engine_of(open_session(file, proof.engine)[0], header)
    for trial in range(len(reference.trials())):
        inputs = reference.inputs(trial)
        _compare_outputs(proof, reference.outputs(trial), run(*inputs), header, inputs[0].shape)
        bar.advance()


def _compare_outputs(
    proof: EngineProof, expected: Sequence[Tensor], found: Sequence[Tensor], header: Header, shape: Sequence[int]
) -> None:
    """Note the largest difference of every output for inputs of a shape."""
    for name, ours, theirs in zip(header.outputs, expected, found, strict=True):
        entry = proof.outputs.setdefault(name, {"largest": 0.0, "relative": 0.0})
        if ours.shape != theirs.shape:
            proof.problems.append(f"{name} is {list(theirs.shape)} and not {list(ours.shape)}")
            continue
        off = (ours.float() - theirs.float()).abs()
        largest = float(off.max()) if off.numel() else 0.0
        if not np.isfinite(largest):
            proof.problems.append(f"{name} is not finite for random inputs of {list(shape)}")
            largest = float("inf")
        deviation = float(ours.float().std()) if ours.numel() > 1 else 0.0
        entry["largest"] = max(entry["largest"], largest)
        entry["relative"] = max(entry["relative"], float(off.square().mean().sqrt()) / (deviation or 1.0))


def _judge_drift(proof: EngineProof, header: Header, tolerance: Tolerance) -> None:
    """In float32 random inputs must give the same; what has less precision is judged by its metric alone."""
    if header.precision != "fp32":
        return
    for name, entry in proof.outputs.items():
        if entry["relative"] > tolerance.drift:
            proof.problems.append(
                f"{name} is off by {entry['relative']:.2g} deviations for random inputs (more than {tolerance.drift:g})"
            )


def _judge_score(proof: EngineProof, expected: Score, tolerance: Tolerance) -> None:
    assert proof.score is not None, "it was measured"
    for name, ours in expected.values.items():
        theirs, measure = proof.score.values.get(name), expected.measures[name]
        lost = tolerance.difference(measure, ours, theirs)
        proof.lost[name] = lost
        if not lost <= tolerance.points:
            proof.problems.append(
                f"{measure.name} is {measure.show(theirs)} and not {measure.show(ours)}: {lost:.2f} points less "
                f"(at most {tolerance.points:g})"
            )


@torch.no_grad()
def _time_in_turn(passes: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """The median time of each of several passes, which take turns; the first round warms up."""
    times: list[list[float]] = [[] for _ in passes]
    begin = time.perf_counter()
    for number in track(range(rounds + 1), "timing", unit="rounds"):
        for each, seconds in zip(passes, times, strict=True):
            start = time.perf_counter()
            each()
            if number:
                seconds.append(time.perf_counter() - start)
        if number and time.perf_counter() - begin > _SECONDS * len(passes):
            break
    return [median(seconds) for seconds in times]


def _json(value: float) -> float | None:
    return value if np.isfinite(value) else None


def summary(measures: Mapping[str, Measure], values: Mapping[str, float | None]) -> str:
    """Main numbers in words."""
    return ", ".join(f"{measures[name].name} {measures[name].show(value)}" for name, value in values.items())
