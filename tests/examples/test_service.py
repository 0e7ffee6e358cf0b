"""The service example: answers, refusals, limits, batches and the end."""

import json
import re
import shlex
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import small_checkpoints
import torch
from PIL import Image

from pe_spatial.commands.options import CommandParser
from pe_spatial.commands.shell import parse, run_module
from pe_spatial.common.errors import UserError
from pe_spatial.inference.tasks import open_predictor

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

from served import ROOMY, SIZES, picture, serving  # noqa: E402

from service import load_test, settings  # noqa: E402
from service.answers import render  # noqa: E402
from service.batching import Batcher  # noqa: E402
from service.metrics import Counter, Histogram, Metrics  # noqa: E402
from service.settings import Settings  # noqa: E402


@pytest.fixture(scope="module")
def predictors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        task: open_predictor(save(folder / f"{task}.pth"), "cpu", ROOMY.max_batch, [])
        for task, save in small_checkpoints.SAVE.items()
    }


@pytest.fixture(scope="module")
def detector(predictors):
    with serving(predictors["detection"], ROOMY) as client:
        yield client


class Gate:
    """A predictor whose model waits until it is opened."""

    def __init__(self, predictor):
        self.predictor, self.opened, self.batches = predictor, threading.Event(), []
        self.opened.set()

    def __getattr__(self, name):
        return getattr(self.predictor, name)

    def predict(self, samples):
        self.batches.append([tuple(sample["inputs"].shape) for sample in samples])
        assert self.opened.wait(60)
        return self.predictor.predict(samples)


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# --- answers ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("task", "key"), [("detection", "instances"), ("segmentation", "pixels"), ("depth", "depth")])
def test_every_task_answers_what_its_predictor_says(task, key, predictors):
    with serving(predictors[task], ROOMY) as client:
        status, headers, body = client.predict(picture(0), "?threshold=0")
        assert (status, headers["Content-Type"]) == (200, "application/json")
        sample = predictors[task](picture(0))
        assert json.loads(body) == json.loads(render(sample, "json", 0.0)[0])
        assert json.loads(body)[key] and json.loads(body)["height"] == SIZES[0][0]

        shown = Image.open(BytesIO(client.predict(picture(0), Accept="image/png")[2]))
        np.testing.assert_array_equal(np.asarray(shown), sample.draw(ROOMY.threshold))

        status, _, body = client.predict(picture(0), "?format=map")
        if task == "detection":
            assert status == 400 and b"ask for format=json" in body
            return
        values = np.asarray(Image.open(BytesIO(body)))
        expected = sample.pred_sem_seg.data[0] if task == "segmentation" else sample.pred_depth.data[0] * 1000
        np.testing.assert_array_equal(values, expected.round().numpy())


def test_instances_below_the_threshold_are_left_out(detector):
    rows = json.loads(detector.predict(picture(1), "?threshold=0")[2])["instances"]
    middle = sorted(row["score"] for row in rows)[len(rows) // 2]
    kept = json.loads(detector.predict(picture(1), f"?threshold={middle - 1e-5}")[2])["instances"]
    assert kept == [row for row in rows if row["score"] >= middle] and 0 < len(kept) < len(rows)
    assert {row["name"] for row in rows} <= {"a", "b", "c"}


# --- bad input --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"", "image/png", 400, "the body is empty"),
        (b"no picture", "image/png", 415, "it is empty or no picture"),
        (picture(0)[:60], "image/png", 422, "cannot be read"),
        (picture(0), "multipart/form-data; boundary=x", 415, "send the bytes of one picture"),
        (picture(0), "application/json", 415, "send the bytes of one picture"),
    ],
    ids=["empty", "text", "damaged", "form", "json"],
)
def test_what_is_no_picture_is_refused_with_the_reason(body, kind, status, message, detector):
    found = detector.predict(body, Content_Type=kind)
    assert found[0] == status and message in json.loads(found[2])["detail"]
    assert detector.predict(picture(0))[0] == 200


def test_queries_out_of_range_are_refused(detector):
    for query in ("?threshold=2", "?format=gif"):
        assert detector.predict(picture(0), query)[0] == 422


def test_too_many_bytes_and_pixels_are_refused(predictors):
    limits = replace(ROOMY, max_upload=5000, max_pixels=1000)
    with serving(predictors["detection"], limits) as client:
        assert client.predict(picture(0))[0] == 200
        status, _, body = client.predict(picture(3))
        assert status == 413 and "33 x 57 pixels" in json.loads(body)["detail"]
        status, _, body = client.predict(b"x" * 5001)
        assert status == 413 and "5,001 bytes" in json.loads(body)["detail"]
        # without a stated length it is noticed while the bytes come in
        assert client.predict(iter([b"x" * 3000] * 2))[0] == 413
        assert client.service.admission.requests == client.service.admission.pixels == 0
        bomb = BytesIO()
        Image.new("1", (4000, 4000)).save(bomb, "PNG")
        status, _, body = client.predict(bomb.getvalue()[:5000])
        assert status == 413 and "4000 x 4000 pixels" in json.loads(body)["detail"]


def test_a_slow_upload_loses_its_place(predictors):
    with serving(predictors["detection"], replace(ROOMY, upload_seconds=0.2)) as client:

        def parts():
            yield picture(0)[:20]
            time.sleep(0.5)
            yield picture(0)[20:]

        assert client.predict(parts())[0] == 408
        assert client.service.admission.requests == 0


# --- batches and overload ---------------------------------------------------------------------------------------------
def test_pictures_of_one_size_share_a_batch_and_nothing_is_mixed_up(predictors):
    gate = Gate(predictors["segmentation"])
    expected = [json.loads(render(gate.predictor(picture(number)), "json", 0.0)[0]) for number in range(16)]
    assert len({json.dumps(answer) for answer in expected}) == 16
    with serving(gate, ROOMY) as client, ThreadPoolExecutor(16) as clients:
        gate.opened.clear()
        answers = [clients.submit(client.predict, picture(number)) for number in range(16)]
        until(lambda: client.service.admission.requests == 16 and len(client.service.batcher._waiting) >= 12)
        gate.opened.set()
        assert [json.loads(answer.result()[2]) for answer in answers] == expected
        assert all(len(set(shapes)) == 1 for shapes in gate.batches)  # one size in each
        assert max(map(len, gate.batches)) == ROOMY.max_batch
        assert sum(map(len, gate.batches)) == 17  # with the black picture of the start
        assert client.metric('pe_spatial_requests_total{status="200"}') == "16"
        assert client.metric("pe_spatial_batch_size_sum") == "17"


def test_overload_is_answered_at_once_and_passes(predictors):
    gate = Gate(predictors["detection"])
    with serving(gate, replace(ROOMY, max_batch=2, queue=3)) as client, ThreadPoolExecutor(3) as clients:
        gate.opened.clear()
        inside = [clients.submit(client.predict, picture(number)) for number in range(3)]
        until(lambda: client.service.admission.requests == 3)
        started = time.monotonic()
        status, headers, body = client.predict(picture(0))
        assert status == 503 and int(headers["Retry-After"]) >= 1 and "3 requests are waiting" in body.decode()
        assert time.monotonic() - started < 1  # while the model is stuck
        assert client.ask("GET", "/ready")[0] == 503 and client.ask("GET", "/health")[0] == 200
        gate.opened.set()
        assert [answer.result()[0] for answer in inside] == [200] * 3
        assert client.predict(picture(0))[0] == client.ask("GET", "/ready")[0] == 200
        assert client.metric('pe_spatial_requests_total{status="503"}') == "1"


def test_pixels_inside_are_bounded_but_one_picture_always_enters(predictors):
    gate = Gate(predictors["detection"])
    with serving(gate, replace(ROOMY, waiting_pixels=1000)) as client, ThreadPoolExecutor(1) as clients:
        gate.opened.clear()
        first = clients.submit(client.predict, picture(3))  # 33 x 57
        until(lambda: client.service.admission.pixels == 33 * 57)
        assert client.predict(picture(0))[0] == 503
        gate.opened.set()
        assert first.result()[0] == 200 and client.service.admission.pixels == 0


def test_what_was_taken_is_answered_before_the_end(predictors):
    gate = Gate(predictors["detection"])
    with serving(gate, ROOMY) as client, ThreadPoolExecutor(6) as clients:
        gate.opened.clear()
        inside = [clients.submit(client.predict, picture(number)) for number in range(6)]
        until(lambda: client.service.admission.requests == 6)
        client.server.should_exit = True  # what SIGTERM does
        until(lambda: not client.server.servers[0].is_serving())
        assert client.thread.is_alive()
        with pytest.raises(ConnectionError):
            client.predict(picture(0))
        gate.opened.set()
        assert [answer.result()[0] for answer in inside] == [200] * 6
        client.thread.join(30)
        assert not client.thread.is_alive() and not client.service.batcher.is_running


def test_a_bug_is_a_500_of_its_picture_alone(predictors, monkeypatch):
    detector = predictors["detection"]
    predict = detector.predict

    def fails_on_one_shape(samples):
        if any(sample["image"].shape[-2:] == (33, 57) for sample in samples):
            raise ZeroDivisionError
        return predict(samples)

    monkeypatch.setattr(detector, "predict", fails_on_one_shape)
    with serving(detector, ROOMY) as client:
        assert client.predict(picture(3))[0] == 500
        assert client.predict(picture(0))[0] == 200
        assert client.metric('pe_spatial_requests_total{status="500"}') == "1"


def test_threads_do_not_fight(predictors, monkeypatch):
    counts = {}
    detector = predictors["detection"]
    transform, found = detector.transform, detector.predict([detector.prepare(picture(0))])

    def noted(name, result):
        counts[name] = cores()
        return result

    monkeypatch.setattr(detector, "transform", lambda sample: noted("reader", transform(sample)))
    monkeypatch.setattr(detector, "predict", lambda samples: noted("model", found * len(samples)))
    before = cores()
    with serving(detector, replace(ROOMY, threads=2)) as client:
        assert client.predict(picture(0))[0] == 200
    assert counts == {"reader": 1, "model": 2} and cores() == before


def cores():
    return torch.get_num_threads()


# --- the batcher alone ------------------------------------------------------------------------------------------------
def test_the_oldest_waits_no_longer_than_it_may_and_mates_leave_with_it():
    batches = []
    batcher = Batcher(lambda items: batches.append(items) or items, 8, 0.2, Metrics())
    batcher.start()
    started = time.monotonic()
    futures = [batcher.submit(number, number % 2) for number in range(6)]
    assert [future.result(10) for future in futures] == list(range(6))
    assert 0.2 <= time.monotonic() - started < 5
    assert batches == [[0, 2, 4], [1, 3, 5]]
    batcher.stop()
    with pytest.raises(RuntimeError, match="stopping"):
        batcher.submit(0, 0)


def test_a_full_batch_leaves_at_once_and_a_given_up_picture_not_at_all():
    batches = []
    batcher = Batcher(lambda items: batches.append(items) or items, 2, 60, Metrics())
    futures = [batcher.submit(number, None) for number in range(5)]
    assert futures[1].cancel()
    batcher.start()
    assert futures[3].result(10) == 3
    batcher.stop()  # does not wait for mates of the last one
    assert futures[4].result(0) == 4 and batches == [[0], [2, 3], [4]]


def test_one_bad_picture_costs_the_others_nothing():
    def run(items):
        if 2 in items:
            raise ZeroDivisionError
        return [UserError("of one alone") if item == 3 else item for item in items]

    batcher = Batcher(run, 8, 0.1, Metrics())
    futures = [batcher.submit(number, None) for number in range(5)]
    batcher.start()
    assert [type(future.exception(10)) for future in futures] == [
        type(None),
        type(None),
        ZeroDivisionError,
        UserError,
        type(None),
    ]
    assert batcher.seconds_per_picture > 0
    batcher.stop()


# --- metrics ----------------------------------------------------------------------------------------------------------
def test_the_text_is_that_of_prometheus():
    histogram, counter = Histogram((0.1, 1)), Counter("status")
    for value in (0.1, 0.5, 2):
        histogram.observe(value)
    counter.add(200)
    assert list(histogram.lines("h")) == [
        'h_bucket{le="0.1"} 1',
        'h_bucket{le="1"} 2',
        'h_bucket{le="+Inf"} 3',
        "h_sum 2.6",
        "h_count 3",
    ]
    assert list(counter.lines("c")) == ['c{status="200"} 1']


# --- settings ---------------------------------------------------------------------------------------------------------
def options_of(*arguments):
    options, parser = parse("service", settings, ["--checkpoint", "run", *arguments])
    settings.check(options, parser)
    return options


def test_the_environment_is_a_default(monkeypatch):
    monkeypatch.setenv("PE_SERVE_MAX_BATCH", "3")
    monkeypatch.setenv("PE_SERVE_MAX_UPLOAD", "1.5mb")
    monkeypatch.setenv("PE_SERVE_CHECKPOINT", "elsewhere")
    assert (options_of().max_batch, options_of().max_upload) == (3, 1.5e6)
    assert options_of("--max-batch", "4").max_batch == 4
    assert str(parse("service", settings, [])[0].checkpoint) == "elsewhere"


def test_defaults_of_both_places_agree():
    options = options_of()
    given = {name: getattr(options, name) for name in vars(Settings()) if name != "threads"}
    assert replace(Settings(), **given) == Settings()


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--max-batch", "64"], {}, "--max-batch 64 is more than --queue 32"),
        (["--waiting-pixels", "5"], {}, "--waiting-pixels 5 of all pictures"),
        (["--port", "99999"], {}, "99999 is too large"),
        (["--max-upload", "20"], {}, "'20' is not an amount"),
        ([], {"PE_SERVE_PORT": "http"}, "the environment variable PE_SERVE_PORT: 'http' is not an integer"),
        ([], {"PE_SERVE_ENGINE": "tvm"}, "the environment variable PE_SERVE_ENGINE: 'tvm' is not one of auto, torch"),
        ([], {"PE_SERVE_MAXBATCH": "8"}, "did you mean 'PE_SERVE_MAX_BATCH'?"),
    ],
)
def test_settings_are_checked_at_the_start(arguments, variables, message, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as status:
        options_of(*arguments)
    assert status.value.code == 2 and message in capsys.readouterr().err


def test_a_checkpoint_that_is_missing_ends_it_with_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the service sets it
    assert run_module(settings, "service", ["--checkpoint", str(tmp_path / "gone.pth")]) == 2
    assert "gone.pth" in capsys.readouterr().err


def test_the_commands_of_its_page_parse():
    text = (Path(settings.__file__).parent / "README.md").read_text()
    commands = re.findall(r"^python -m (service(?:\.load_test)?) (.*)$", text, re.MULTILINE)
    assert len(commands) == 3
    for program, arguments in commands:
        parse(program, load_test if "load_test" in program else settings, shlex.split(arguments))
    for place in re.findall(r"\]\(([\w./]+)\)", text):
        assert (Path(settings.__file__).parent / place).is_file()


def test_the_help_names_every_option():
    parser = CommandParser("service", "")
    settings.add_arguments(parser)
    text = parser.format_help()
    assert all(f"--{name.replace('_', '-')}" in text for name in vars(Settings()))


# --- the load test ----------------------------------------------------------------------------------------------------
def questions_of(checkpoint):
    contents = [picture(number, "JPEG") for number in range(6)]
    questions = load_test.known_answers(checkpoint, contents)
    load_test.require_distinct(questions, 0.01)
    return questions + [load_test.Question(content, None) for content in load_test.damaged(contents[0])]


def test_load_finds_every_answer_right_and_notices_a_mixed_up_one(predictors, capsys):
    detector = predictors["detection"]
    questions = questions_of(detector.checkpoint)
    limits = replace(ROOMY, queue=4, threshold=0)
    with serving(detector, limits) as client:
        phases = [load_test.load(client.port, questions, clients, 2, 0.01) for clients in (4, 10)]
        assert load_test.judge(phases, 5.0, 500e6) == []
        assert [sum(phase.outcomes[kind] for kind in ("right", "refused")) for phase in phases] == [8, 20]
        assert phases[1].busy and not phases[0].busy and phases[0].memory > 0

        swapped = [load_test.Question(questions[0].content, questions[1].answer)]
        phase = load_test.load(client.port, swapped, 1, 2, 0.01)
        assert phase.outcomes == {"wrong": 2}
        assert load_test.judge([phases[0], phase], 5.0, 500e6)[-1].startswith("2 of 2 answers are wrong")
    load_test.show(phases)
    assert "slowest 503" in capsys.readouterr().out


def test_a_server_that_ends_loses_answers_and_the_load_test_says_so():
    phase = load_test.Phase(1, 0.01)
    load_test.ask_all(1, [load_test.Question(b"", {})], 2, phase, seed=0)  # nobody listens at port 1
    assert phase.outcomes == {"lost": 2} and "ConnectionRefused" in phase.problems[0]


def test_answers_that_are_alike_are_refused():
    with pytest.raises(UserError, match="pictures 0 and 1 differ by less than 0.01"):
        load_test.require_distinct([load_test.Question(b"", {"/height": 3.0})] * 2, 0.01)


def test_a_fingerprint_adds_numbers_up_by_their_names():
    answer = {"height": 3, "rows": [{"bbox": [1, 2], "score": 0.5, "segmentation": {"size": [3, 4]}}, {"score": 0.25}]}
    found = load_test.fingerprint(answer)
    assert found["/height"] == 3 and found["/rows/score"] == 0.75 and found["/rows/bbox"] == 3
    assert load_test.is_same(found, {**found, "/rows/score": 0.751}, 0.01)
    assert not load_test.is_same(found, {**found, "/rows/score": 0.78}, 0.01)
    assert not load_test.is_same({}, found, 0.01)
