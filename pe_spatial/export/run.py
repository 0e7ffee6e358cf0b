"""An export from beginning to end: trace, write, prove, and keep the file or reject it."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pe_spatial.common.console import print_note, progress
from pe_spatial.common.errors import OptionError, UserError, few
from pe_spatial.common.files import atomic_folder, write_json, write_text
from pe_spatial.engines.header import EXTRA_FILE, KEY, REJECTED, Header
from pe_spatial.engines.proof import PROOF, names_of
from pe_spatial.export.graphs import onnx_of, program_of, save_onnx
from pe_spatial.export.layers import Traced, layers_of, nodes_of
from pe_spatial.export.options import TARGETS, ExportOptions
from pe_spatial.export.page import PAGE, draw_drift, page
from pe_spatial.export.precision import Feed, to_fp16, to_int8
from pe_spatial.export.proving import (
    EngineProof,
    Reference,
    Tolerance,
    engines_for,
    machine,
    prove,
    time_engines,
    versions,
)
from pe_spatial.export.subjects import Score, Subject, pictures_of

REPAIRS = 4  # rounds of --repair
_SHARE = 0.15  # of the layers that a round of --repair gives back their precision


class RejectedExport(UserError):  # noqa: N818 - names what happened
    """The file does not do what the model does; it was kept under another name, with the report."""


@dataclass(frozen=True)
class Written:
    """A file and what it was made of."""

    files: list[Path]
    header: Header
    traced: Traced


def export(
    subject: Subject,
    folder: Path,
    options: ExportOptions,
    tolerance: Tolerance | None = None,
    metric: bool = True,
    repair: bool = False,
) -> Path:
    """Write a model for another engine, with its proof.

    Args:
        subject: What is exported.
        folder: Is made, with the file, `PROOF.json`, `PROOF.md` and a picture of the drift; must not exist yet.
        options: How.
        tolerance: How far the file may be off; None takes the default.
        metric: Whether it is judged on data.
        repair: Give layers back their precision, those in which the drift grows most first, until the proof holds.

    Returns:
        The file.

    Raises:
        OptionError: As of `ExportOptions`, or something that cannot be traced or translated.
        RejectedExport: The proof does not hold in any engine.
        UserError: The folder exists.
    """
    options.check()
    options = options.fit(subject.graph)
    if folder.exists() and any(folder.iterdir()):
        raise OptionError(f"{folder}: exists and is not empty, and nothing is overwritten; give another --output")
    tolerance = tolerance or Tolerance()
    source = _translate(subject, options)
    feeds = _feeds(subject, pictures_of(options.images, options.calibration)) if options.precision == "int8" else []
    if metric:
        print_note("computing the metric in torch")
    expected = subject.score(None, "torch") if metric else None
    reference = Reference(subject, options)
    keep: list[str] = []
    with atomic_folder(folder) as temporary:
        for attempt in range(REPAIRS + 1 if repair else 1):
            _empty(temporary)
            print_note(f"writing {TARGETS[options.target]} in {options.precision}")
            written = _write(subject, source, temporary, options, keep, feeds)
            proofs = [
                _prove(written, engine, reference, expected, tolerance) for engine in engines_for(written.files[0])
            ]
            if any(proof.passed for proof in proofs) or not repair or attempt == REPAIRS:
                break
            keep = _more_precise(proofs, keep)
            print_note(f"the proof does not hold; {len(keep)} layers keep float32: {few(keep[-3:])}")
        time_engines(written.files[0], written.header, proofs, reference)
        passed = any(proof.passed for proof in proofs)
        files = written.files if passed else [_reject(path) for path in written.files]
        _report(subject, replace(written, files=files), proofs, expected, tolerance, keep, temporary, passed)
    target = folder / files[0].name
    if not passed:
        raise RejectedExport(_failure(target, proofs, options))
    return target


# --- writing ----------------------------------------------------------------------------------------------------------
def _translate(subject: Subject, options: ExportOptions) -> Any:  # noqa: ANN401 - torch's
    """What files are written from: torch's ONNX program, or its exported program for pt2."""
    steps = ["tracing the model", "translating it to ONNX"][: 1 if options.target == "pt2" else 2]
    with progress(steps[0], len(steps), "steps") as bar:
        print_note(f"tracing {subject.name}")
        program = program_of(subject.graph, options)
        if options.target == "pt2":
            bar.advance()
            return program
        print_note(steps[-1])
        bar.advance(1, steps[-1])
        made = onnx_of(program, subject.graph)
        bar.advance()
    return made


def _write(
    subject: Subject,
    source: Any,  # noqa: ANN401 - torch's
    folder: Path,
    options: ExportOptions,
    keep: Sequence[str],
    feeds: Sequence[Feed],
) -> Written:
    header = Header(
        inputs=subject.graph.inputs,
        outputs=subject.graph.outputs,
        multiple=subject.graph.multiple,
        batch=options.batch,
        size=options.image_size,
        precision=options.precision,
        kind=subject.kind,
        config=subject.config,
        metainfo=subject.metainfo,
        preprocessing=subject.preprocessing,
        source=subject.source,
        versions=versions(),
    )
    path = folder / TARGETS[options.target]
    if options.target == "pt2":
        import torch

        torch.export.save(source, path, extra_files={EXTRA_FILE: header.text()})
        return Written([path], header, Traced(source))
    proto = source.model_proto  # a new one each time: what follows changes it
    nodes, layers = nodes_of(proto, keep), layers_of(proto)
    if options.precision == "fp16" and options.target == "onnx":
        proto = to_fp16(proto, nodes)
    elif options.precision == "int8":
        proto = to_int8(proto, feeds, nodes)
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, header.text()
    traced = Traced(source.exported_program, proto, layers)
    if options.target == "onnx":
        return Written(save_onnx(proto, path), header, traced)
    return Written(_save_openvino(proto, path, header, options), header, traced)


def _save_openvino(proto: Any, path: Path, header: Header, options: ExportOptions) -> list[Path]:  # noqa: ANN401
    import openvino

    with _temporary_onnx(proto, path) as source:
        try:
            model = openvino.Core().read_model(source)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:400]
            raise OptionError(f"OpenVINO cannot express a part of the model: {reason}; try --to onnx") from error
        model.set_rt_info(header.text(), [KEY])
        openvino.save_model(model, path, compress_to_fp16=options.precision == "fp16")
    return [path, path.with_suffix(".bin")]


@contextmanager
def _temporary_onnx(proto: Any, path: Path) -> Iterator[Path]:  # noqa: ANN401
    source = path.parent / "source.onnx"
    written = save_onnx(proto, source)
    try:
        yield source
    finally:
        for each in written:
            each.unlink()


def _feeds(subject: Subject, pictures: Sequence[Path]) -> list[Feed]:
    passes = subject.recorded(pictures)
    return [
        {name: tensor.numpy() for name, tensor in zip(subject.graph.inputs, inputs, strict=True)} for inputs in passes
    ]


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# --- proving ----------------------------------------------------------------------------------------------------------
def _prove(
    written: Written, engine: str, reference: Reference, expected: Score | None, tolerance: Tolerance
) -> EngineProof:
    print_note(f"proving {written.files[0].name} in {engine}")
    return prove(written.files[0], written.header, engine, reference, expected, written.traced, tolerance)


def _more_precise(proofs: Sequence[EngineProof], keep: Sequence[str]) -> list[str]:
    """The layers that keep float32 in the next round."""
    suspects = [drift.layer for proof in proofs for drift in proof.suspects if drift.layer not in keep]
    layers = list(dict.fromkeys(suspects))
    if not layers:
        return list(keep)
    total = len({drift.layer for proof in proofs for drift in proof.layers})
    return [*keep, *layers[: max(int(total * _SHARE), 1)]]


def _reject(path: Path) -> Path:
    return path.rename(path.with_name(path.name + REJECTED))


def _report(
    subject: Subject,
    written: Written,
    proofs: Sequence[EngineProof],
    expected: Score | None,
    tolerance: Tolerance,
    keep: Sequence[str],
    folder: Path,
    passed: bool,
) -> None:
    record: Mapping[str, Any] = {
        "format_version": 1,
        "passed": passed,
        "files": names_of(written.files),
        "bytes": sum(path.stat().st_size for path in written.files),
        "subject": subject.name,
        "source": dict(subject.source),
        "precision": written.header.precision,
        "kept_in_float32": list(keep),
        "tolerance": {"points": tolerance.points, "drift": tolerance.drift},
        "images": None if expected is None else expected.images,
        "metrics": None if expected is None else dict(expected.values),
        "engines": {proof.engine: proof.record() for proof in proofs},
        "machine": machine(),
        "versions": dict(written.header.versions),
    }
    write_json(folder / PROOF, record)
    draw_drift(proofs, folder)
    write_text(folder / PAGE, page(record, proofs, expected))


def _failure(path: Path, proofs: Sequence[EngineProof], options: ExportOptions) -> str:
    problems = [f"{proof.engine}: {problem}" for proof in proofs for problem in proof.problems]
    layers = list(dict.fromkeys(drift.layer for proof in proofs for drift in proof.suspects))[:3]
    where = f"; the drift grows most in {few(layers)}" if layers else ""
    remedies = {"fp32": "report it", "bf16": "take --precision fp32"}
    remedy = remedies.get(options.precision, "take --precision fp32, or --repair")
    return f"{path}: does not do what the model does: {few(problems)}{where}; {remedy} (see {PROOF} and {PAGE})"
