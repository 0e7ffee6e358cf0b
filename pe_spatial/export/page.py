"""The page of a proof: `PROOF.md`, and a picture of the drift."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pe_spatial.export.proving import EngineProof
from pe_spatial.export.subjects import Score
from pe_spatial.visualization.charts import Curve, Panel, save_curves

PAGE, PICTURE = "PROOF.md", "drift.png"
_SHOWN = 12
_NAMED = 6  # layers below the curve
_LEAST = 1e-9  # a logarithm has no place for 0


def page(record: Mapping[str, Any], proofs: Sequence[EngineProof], expected: Score | None) -> str:
    """The text of `PROOF.md`.

    Args:
        record: The content of `PROOF.json`.
        proofs: One for each engine.
        expected: The score of the model; None where the metric was left out.
    """
    verdict = "does what the model does" if record["passed"] else "does NOT do what the model does, and was rejected"
    files = ", ".join(record["files"])
    lines = [
        f"# {files} {verdict}",
        "",
        f"Made of {record['subject']} (SHA-256 {record['source']['sha256'][:12]}…), precision {record['precision']}, "
        f"{record['bytes']:,} bytes.",
        "",
        *_metrics(proofs, expected),
        "| engine | holds | largest difference, random inputs | s a pass | torch, s a pass | times torch |",
        "|---|---|---|---|---|---|",
        *(_engine_row(proof) for proof in proofs),
        "",
    ]
    for proof in proofs:
        lines += [f"* {proof.engine}: {problem}" for problem in proof.problems]
        lines += _layer_table(proof)
    if record["kept_in_float32"]:
        lines += ["", f"Layers that keep float32: {', '.join(record['kept_in_float32'])}."]
    where = record["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines += ["", f"Measured on {where['device']}, {where['cores']} cores, {where['threads']} threads; {packages}."]
    return "\n".join(lines) + "\n"


def draw_drift(proofs: Sequence[EngineProof], folder: Path) -> None:
    """Draw how the drift grows through the layers; nothing where no layer was compared."""
    shown = [proof for proof in proofs if proof.layers]
    if not shown:
        return
    curves = [
        Curve(proof.engine, range(len(proof.layers)), [max(drift.drift, _LEAST) for drift in proof.layers])
        for proof in shown
    ]
    layers = [drift.layer for drift in shown[0].layers]
    places = sorted({round(n * (len(layers) - 1) / (_NAMED - 1)) for n in range(_NAMED)})
    names = {place: layers[place].rpartition("encoder.")[2] for place in places}
    title = "Drift from torch, layer by layer" + (f" in {shown[0].engine}" if len(shown) == 1 else "")
    unit, steps = "relative difference, no unit", "layers in their order"
    save_curves(
        folder / PICTURE, "", [Panel(title, curves, unit, logarithmic=True, steps=steps, names=names)], (8.5, 4.2)
    )


def _metrics(proofs: Sequence[EngineProof], expected: Score | None) -> list[str]:
    if expected is None:
        return ["The metric was left out (`--no-metric`): nothing is said about data.", ""]
    lines = [f"On {expected.images:,} images:", "", f"| measure | torch | {' | '.join(p.engine for p in proofs)} |"]
    lines.append("|---" * (2 + len(proofs)) + "|")
    for name, value in expected.values.items():
        measure = expected.measures[name]
        found = (measure.show(None if proof.score is None else proof.score.values.get(name)) for proof in proofs)
        lines.append(f"| {measure.name} | {measure.show(value)} | {' | '.join(found)} |")
    return [*lines, ""]


def _engine_row(proof: EngineProof) -> str:
    outputs = "; ".join(f"{name} {entry['largest']:.2g}" for name, entry in proof.outputs.items())
    times = f"{proof.seconds:.4f} | {proof.torch_seconds:.4f} | {proof.torch_seconds / proof.seconds:.2f}"
    return f"| {proof.engine} | {'yes' if proof.passed else 'no'} | {outputs} | {times} |"


def _layer_table(proof: EngineProof) -> list[str]:
    if not proof.layers:
        return []
    return [
        "",
        f"Where the drift grows most in {proof.engine} ({len(proof.layers)} values compared, see {PICTURE}):",
        "",
        "| layer | operator | drift, relative | of it new | largest difference |",
        "|---|---|---|---|---|",
        *(
            f"| {drift.layer} | {drift.operator} | {drift.drift:.2g} | {drift.grown:.2g} | {drift.largest:.2g} |"
            for drift in proof.suspects[:_SHOWN]
        ),
    ]
