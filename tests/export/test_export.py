"""`pe-spatial export`: the file does what the checkpoint does, wherever it runs, and what does not is caught."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from export_scenes import train

from pe_spatial import SharedPredictor
from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import CheckpointError, OptionError
from pe_spatial.engines import choose_engine, proof_of, read_header
from pe_spatial.engines.models import equip, find_file
from pe_spatial.export import ExportOptions, ModelSubject, Tolerance, export
from pe_spatial.export import run as export_run
from pe_spatial.export.graphs import onnx_of, program_of
from pe_spatial.export.layers import Traced, layers_of
from pe_spatial.export.precision import float_weights
from pe_spatial.export.proving import Reference, prove
from pe_spatial.inference.tasks import open_predictor
from pe_spatial.runtime import Runtime
from pe_spatial.training.checkpoint import resolve_checkpoint

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def segmenter(place):
    return train(place, "segmentation", "linear-tiny")


@pytest.fixture(scope="module")
def traced(segmenter):
    """The subject, the options for it, its program and its ONNX graph: what takes long."""
    subject = ModelSubject(segmenter)
    options = ExportOptions(rounds=1).fit(subject.graph)
    program = program_of(subject.graph, options)
    return subject, options, program, onnx_of(program, subject.graph)


@pytest.fixture
def once(traced, monkeypatch):
    """Exports of the segmenter take the graph that is there."""

    monkeypatch.setattr(export_run, "program_of", lambda graph, options: traced[2])
    monkeypatch.setattr(export_run, "onnx_of", lambda program, graph: traced[3])


@pytest.fixture(scope="module")
def exported(segmenter, traced):
    """The file beside the run, with its proof."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_run, "program_of", lambda graph, options: traced[2])
        patch.setattr(export_run, "onnx_of", lambda program, graph: traced[3])
        return export(traced[0], segmenter / "exported" / "onnx_fp32", traced[1])


@pytest.fixture(scope="module")
def pictures(place, segmenter):
    """Of several sizes, none of them the model's."""
    from PIL import Image

    folder = place / "pictures"
    folder.mkdir()
    for number, size in enumerate([(32, 32), (50, 41), (33, 70)]):
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


# --- the proof --------------------------------------------------------------------------------------------------------
def test_the_proof_travels_with_the_file(exported, segmenter):
    content = json.loads((exported.parent / "PROOF.json").read_text())
    assert content["passed"] and content["files"].keys() == {"model.onnx"}
    assert {"onnxruntime"} <= content["engines"].keys()
    for engine in content["engines"].values():
        assert engine["passed"] and engine["problems"] == []
        assert engine["metrics"] == pytest.approx(content["metrics"], abs=0.1)  # of 100
        assert 0 <= engine["random_inputs"]["scores"]["largest"] < 1e-4
        assert max(layer["drift"] for layer in engine["layers"]) < 1e-4 and len(engine["layers"]) > 10
        assert engine["seconds"] > 0
    page = (exported.parent / "PROOF.md").read_text()
    assert page.startswith("# model.onnx does what the model does") and "| mean IoU |" in page
    assert (exported.parent / "drift.png").read_bytes()[:4] == b"\x89PNG"
    header = read_header(exported)
    assert (header.size, header.batch, header.precision, header.outputs) == (None, None, "fp32", ("scores",))
    assert header.metainfo["classes"] == ["wall", "floor", "disc", "box", "triangle"]
    assert json.loads(header.config)["model"]["type"] == "SemanticSegmentor"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_predictor_takes_it_like_a_checkpoint(engine, exported, segmenter, pictures):
    pytest.importorskip(engine)
    ours, theirs = open_predictor(segmenter, "cpu", 2, []), open_predictor(exported, "cpu", 2, [], engine)
    assert theirs.engine == engine and theirs.classes == ours.classes
    assert not list(theirs.model.parameters())  # its weights are in the graph alone
    for one, other in zip(ours(pictures), theirs(pictures), strict=True):
        assert torch.equal(one.pred_sem_seg.data, other.pred_sem_seg.data)
    batch = torch.randn(3, 3, 48, 80)
    with torch.no_grad():
        torch.testing.assert_close(theirs.model.score_map(batch), ours.model.score_map(batch), atol=1e-4, rtol=0)


def test_without_torch_it_gives_the_same(exported, segmenter, pictures):
    ours, runtime = open_predictor(segmenter, "cpu", 1, []), Runtime(exported)
    assert runtime.classes == ours.classes
    for picture in pictures:
        labels = runtime(picture)["labels"]
        assert (labels == ours(picture).pred_sem_seg.data[0].numpy()).mean() >= 0.999
    with pytest.raises(OptionError, match="multiples of 16"):
        runtime.run(np.zeros((1, 3, 30, 32), np.float32))


def test_torch_is_not_imported(exported, pictures):
    code = (
        "import sys; from pe_spatial.runtime import Runtime; "
        f"print(Runtime({str(exported)!r})({str(pictures[1])!r})['labels'].shape, "
        "[name for name in ('torch', 'torchvision', 'mmengine', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(50, 41) []"


def test_eval_and_predict_take_it(exported, pictures, tmp_path, capfd):
    assert run_command("eval", [str(exported), "--output", str(tmp_path / "scores")]) == 0
    metrics = json.loads((tmp_path / "scores/result.json").read_text())["metrics"]
    expected = json.loads((exported.parent / "PROOF.json").read_text())["metrics"]
    assert metrics["seg/mIoU"] == pytest.approx(expected["seg/mIoU"], abs=1e-3)
    arguments = ["--input", str(pictures[0].parent), "--output", str(tmp_path / "out"), "--engine", "onnxruntime"]
    assert run_command("predict", ["--checkpoint", str(exported), *arguments]) == 0
    assert len(list((tmp_path / "out/labels").iterdir())) == 3
    capfd.readouterr()


def test_auto_takes_the_export_of_a_checkpoint(exported, segmenter, tmp_path):
    best = next(segmenter.glob("best_iter_*.pth"))
    assert resolve_checkpoint(exported.parent) == exported
    path, engine = find_file(best, "auto")
    assert path == exported and engine == proof_of(exported).passed[0]
    assert find_file(best, None) == (best, "torch")
    other = shutil.copy(best, tmp_path / "alone.pth")
    assert find_file(other, "auto") == (other, "torch")
    with pytest.raises(OptionError, match="--engine onnxruntime runs exported files.*pe-spatial export .* --to onnx"):
        find_file(best, "onnxruntime")


# --- what goes wrong --------------------------------------------------------------------------------------------------
def test_a_file_without_its_proof_or_with_another(exported, tmp_path):
    alone = shutil.copy(exported, tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=r"no PROOF.json beside it.*--engine onnxruntime"):
        choose_engine(alone)
    assert choose_engine(alone, "onnxruntime") == "onnxruntime"
    shutil.copy(exported.parent / "PROOF.json", tmp_path)
    assert choose_engine(alone) in ("onnxruntime", "openvino")
    content = bytearray(alone.read_bytes())
    content[len(content) // 2] ^= 1
    alone.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not the file that .* proves"):
        choose_engine(alone, "onnxruntime")
    with pytest.raises(CheckpointError, match="no such file"):
        read_header(tmp_path / "none.onnx")
    with pytest.raises(CheckpointError, match="failed its proof"):
        read_header(tmp_path / "model.onnx.rejected")


def test_a_cut_or_foreign_file(exported, tmp_path):
    content = exported.read_bytes()
    for length in (0, 7, len(content) // 2, len(content) - 5):
        cut = tmp_path / "cut.onnx"
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="damaged or truncated|has no entry"):
            read_header(cut)
    foreign = onnx.load(str(exported))
    del foreign.metadata_props[:]
    onnx.save_model(foreign, str(tmp_path / "foreign.onnx"))
    with pytest.raises(CheckpointError, match="it was not written by pe-spatial export"):
        read_header(tmp_path / "foreign.onnx")


def test_what_a_file_has_fixed_cannot_be_changed(exported):
    with pytest.raises(OptionError, match=r"model.decode_head is fixed in an exported file"):
        open_predictor(exported, "cpu", 1, ["model.decode_head.dropout_ratio=0.5"])
    assert open_predictor(exported, "cpu", 1, ["model.window={size: 32, stride: 16}"]).window.stride == (16, 16)
    with pytest.raises(OptionError, match=r"--engine compile does not run model.onnx"):
        find_file(exported, "compile")


def test_one_wrong_weight_is_found_and_its_layer_named(traced, once, tmp_path):
    subject, options, _, made = traced
    proto = onnx.ModelProto()
    proto.CopyFrom(made.model_proto)
    broken = "backbone.encoder.transformer.resblocks.2.mlp.c_fc"
    values = {output: node for node in proto.graph.node for output in node.output}
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    inside = [node for node in values.values() if layers_of(proto).get(node.output[0]) == broken]
    name = next(each for node in inside for each in node.input if each in weights and len(weights[each].dims) == 2)
    numbers = onnx.numpy_helper.to_array(weights[name]).copy()
    numbers[3, 5] += 5
    weights[name].CopyFrom(onnx.numpy_helper.from_array(numbers, name))
    written = export_run._write(subject, made, tmp_path, options, [], [])
    onnx.save_model(proto, str(written.files[0]))
    _give_header(written)
    made_of = Traced(made.exported_program, proto, layers_of(proto))
    file = written.files[0]
    proof = prove(file, written.header, "onnxruntime", Reference(subject, options), None, made_of, Tolerance())
    assert not proof.passed and "scores is off by" in proof.problems[0]
    assert proof.suspects[0].layer == broken


def _give_header(written):
    model = onnx.load(str(written.files[0]))
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = "pe_spatial", written.header.text()
    onnx.save_model(model, str(written.files[0]))


def test_the_model_computes_once_for_all_engines_and_sizes_differ(traced):
    subject, options, _, made = traced
    reference = Reference(subject, options)
    shapes = [tuple(reference.inputs(trial)[0].shape) for trial in range(len(reference.trials()))]
    assert len(set(shapes)) == 4 and {shape[0] for shape in shapes} == {1, 3}
    outputs = [reference.outputs(trial) for trial in range(4)]
    assert all(reference.outputs(trial) is outputs[trial] for trial in range(4))
    first, again = (Traced(made.exported_program, made.model_proto, layers_of(made.model_proto)) for _ in range(2))
    values = reference.values(first)
    assert len(values) > 10 and reference.values(first) is values
    assert reference.values(again) is not values  # an attempt of a repair may have other values


def test_every_stage_is_told_before_it_begins(traced, once, tmp_path, capfd):
    export(traced[0], tmp_path / "told", ExportOptions(rounds=1), metric=False)
    lines = [line.partition(" ")[0] for line in capfd.readouterr().err.splitlines()]
    engines = lines.count("proving")
    assert lines == ["tracing", "translating", "writing", *["proving"] * engines, "timing"] and engines >= 1


def test_models_share_a_pass_in_torch_alone(exported, segmenter):
    with pytest.raises(
        OptionError, match=r"other: .*model.onnx runs in \w+, and models can share an encoder only in torch"
    ):
        SharedPredictor({"seg": segmenter, "other": exported}, "cpu")


# --- other precisions -------------------------------------------------------------------------------------------------
def test_int8_leaves_no_matrix_behind(traced, once, pictures, tmp_path):
    options = ExportOptions(precision="int8", images=pictures[0].parent, rounds=1)
    file = export(traced[0], tmp_path / "int8", options, Tolerance(points=50))  # few steps have taught it little
    model = onnx.load(str(file))
    assert float_weights(model) == [] or all("positional" in name for name in float_weights(model))
    assert file.stat().st_size < 0.5 * traced[3].model_proto.ByteSize()
    engines = json.loads((file.parent / "PROOF.json").read_text())["engines"]
    assert 1e-4 < engines["onnxruntime"]["random_inputs"]["scores"]["relative"] < 1
    assert len(engines["onnxruntime"]["layers"]) > 10


def test_what_loses_too_much_is_rejected_and_repaired(traced, once, pictures, tmp_path, monkeypatch):
    impossible = Tolerance(points=-1000)
    options = ExportOptions(precision="fp16", rounds=1)
    monkeypatch.setattr(export_run, "REPAIRS", 1)
    kept = []
    monkeypatch.setattr(export_run, "to_fp16", lambda proto, keep: kept.append(list(keep)) or proto)
    with pytest.raises(export_run.RejectedExport, match=r"model.onnx.rejected: does not do what.*grows most in.*PROOF"):
        export(traced[0], tmp_path / "lost", options, impossible, metric=True, repair=True)
    assert kept[0] == [] and len(kept[1]) > 3  # nodes of the layers that lost most
    assert (tmp_path / "lost/model.onnx.rejected").is_file() and not (tmp_path / "lost/model.onnx").exists()
    content = json.loads((tmp_path / "lost/PROOF.json").read_text())
    assert not content["passed"] and content["kept_in_float32"]


def test_pt2_needs_trust(segmenter, traced, once, tmp_path):
    from pe_spatial.common.trust import trusting

    subject = traced[0]
    with trusting(["torch.export"]):
        file = export(subject, tmp_path / "pt2", ExportOptions("pt2", rounds=1), metric=False)
    with trusting(), pytest.raises(OptionError, match="--allow-import torch.export"):
        equip(subject.predictor.model, file, "torch", torch.device("cpu"))


# --- commands ---------------------------------------------------------------------------------------------------------
def test_the_command_writes_for_openvino(segmenter, pictures, tmp_path, capfd):
    """One size and one batch: pictures of other sizes are made to fit, and batches are cut."""
    pytest.importorskip("openvino")
    arguments = ["--to", "openvino", "--precision", "bf16", "--image-size", "48", "--batch-size", "2", "--limit", "2"]
    arguments += ["--tolerance", "30"]  # of a model that few steps have taught
    assert run_command("export", [str(segmenter), *arguments]) == 0
    assert "model.xml; the proof holds" in capfd.readouterr().out
    file = segmenter / "exported/openvino_bf16/model.xml"
    header = read_header(file)
    assert (header.size, header.batch, header.precision) == ((48, 48), 2, "bf16")
    assert json.loads((file.parent / "PROOF.json").read_text())["images"] == 2
    predictor = open_predictor(file, "cpu", 3, [])
    assert [tuple(found.pred_sem_seg.data.shape[1:]) for found in predictor(pictures)] == [(32, 32), (50, 41), (33, 70)]
    assert Runtime(file)(pictures[1])["labels"].shape == (50, 41)
    with pytest.raises(OptionError, match="exported for .48, 48."):
        predictor.model.score_map(torch.zeros(1, 3, 64, 48))
    small = torch.randn(3, 3, 32, 16)
    padded = torch.nn.functional.pad(small, (0, 32, 0, 16))
    assert torch.equal(predictor.model.score_map(small), predictor.model.score_map(padded)[..., :2, :1])


def test_an_encoder_alone(pictures, tmp_path, capfd):
    tiny = "{base: PE-Spatial-T16-512, name: tiny, depth: 2, width: 48, heads: 3, image_size: 32}"
    section = f"{{type: PEBackbone, variant: {tiny}, layers: [0, 1]}}"
    images = ["--images", str(pictures[0].parent)]
    assert (
        run_command("export", ["--encoder", section, *images, "--output", str(tmp_path / "out"), "--to", "onnx"]) == 0
    )
    file = tmp_path / "out/model.onnx"
    maps = Runtime(file)(pictures[1])
    torch.manual_seed(0)
    from pe_spatial import FeatureExtractor
    from pe_spatial.common.safe_yaml import parse

    expected = FeatureExtractor(parse(section), device="cpu")(pictures[1])
    assert maps.keys() == {"map_0", "map_1"}
    for number in range(2):
        np.testing.assert_allclose(maps[f"map_{number}"], expected[f"layer_{number}"].numpy(), atol=1e-4)
    with pytest.raises(CheckpointError, match="contains only an encoder"):
        open_predictor(file, "cpu", 1, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "tensorrt"], "export --to onnx, and run the file with --engine tensorrt"),
        (["--precision", "int8"], "give --images FOLDER"),
        (["--precision", "bf16"], "does not go with --to onnx; it goes with openvino"),
        (["--image-size", "40"], "--image-size 40 is not a multiple of 16; take 32"),
        (["--graph", "raw"], "graph 'raw': this model has one graph"),
    ],
)
def test_mistakes_are_told_at_once(arguments, message, segmenter, capfd):
    assert run_command("export", [str(segmenter), *arguments]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert message in line


def test_nothing_is_overwritten_and_nothing_exported_twice(exported, segmenter, capfd):
    assert run_command("export", [str(segmenter)]) == 2
    assert "exists and is not empty, and nothing is overwritten" in capfd.readouterr().err
    assert run_command("export", [str(exported)]) == 2
    assert "is already an exported file" in capfd.readouterr().err
