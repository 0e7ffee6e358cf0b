"""The service example with an exported file, and in another precision: what a client gets is what a checkpoint says."""

import json
import shutil
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from small_segmenters import save_segmenter

from pe_spatial.commands.shell import run_module
from pe_spatial.export import ExportOptions, ModelSubject, export
from pe_spatial.inference.tasks import open_predictor

for package in ("fastapi", "uvicorn", "onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

from served import ROOMY, picture, serving  # noqa: E402

from service import app, settings  # noqa: E402


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return save_segmenter(tmp_path_factory.mktemp("served") / "model.pth")


@pytest.fixture(scope="module")
def exported(segmenter):
    return export(
        ModelSubject(segmenter), segmenter.parent / "exported" / "onnx_fp32", ExportOptions(rounds=1), metric=False
    )


@pytest.fixture
def loaded(monkeypatch):
    """The service as its command would start it, up to the server: a function from arguments to the predictor."""
    kept = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the service sets it
    monkeypatch.setattr(app, "serve", lambda application, options: kept.append(application) or 0)

    def load(*arguments):
        assert run_module(settings, "service", [*map(str, arguments), "--device", "cpu"]) == 0
        return kept.pop().state.service.predictor

    return load


def answers(predictor):
    """What a client gets for pictures of several sizes: JSON, and the labels of the map."""
    found = []
    with serving(predictor, ROOMY) as client:
        for number in range(4):
            status, _, body = client.predict(picture(number))
            shown = client.predict(picture(number), "?format=map")
            assert (status, shown[0]) == (200, 200)
            found.append((json.loads(body), np.asarray(Image.open(BytesIO(shown[2])))))
    return found


def test_an_exported_file_answers_as_its_checkpoint_does(segmenter, exported, loaded):
    ours, theirs = loaded("--checkpoint", segmenter), loaded("--checkpoint", exported)
    assert ours.engine == "torch" and theirs.engine in ("onnxruntime", "openvino")
    for (content, labels), (expected, there) in zip(answers(theirs), answers(ours), strict=True):
        assert content == expected and len(content["pixels"]) > 1
        np.testing.assert_array_equal(labels, there)


def test_a_file_without_its_proof_is_not_served_unless_its_engine_is_named(exported, loaded, tmp_path, capsys):
    alone = shutil.copy(exported, tmp_path / "model.onnx")
    assert run_module(settings, "service", ["--checkpoint", str(alone)]) == 2
    assert "no PROOF.json beside it" in capsys.readouterr().err
    assert loaded("--checkpoint", alone, "--engine", "onnxruntime").engine == "onnxruntime"


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_a_checkpoint_computes_in_the_precision_that_is_asked_for(name, dtype, segmenter, loaded):
    predictor = loaded("--checkpoint", segmenter, "--precision", name)
    seen = set()
    predictor.model.decode_head.conv_seg.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    found = answers(predictor)
    assert seen == {dtype}
    expected = open_predictor(segmenter, "cpu", ROOMY.max_batch, [], precision=name)
    for number, (_, labels) in enumerate(found):
        np.testing.assert_array_equal(labels, expected(picture(number)).pred_sem_seg.data[0].numpy())


def test_an_exported_file_keeps_its_precision(exported, loaded, capsys):
    for file in (exported, exported.parent):
        assert run_module(settings, "service", ["--checkpoint", str(file), "--precision", "bf16"]) == 2
        assert "an exported file keeps its precision" in capsys.readouterr().err
