"""Load the service over the loopback and check every answer.

    python -m service.load_test --checkpoint runs/detector
    python -m service.load_test --checkpoint runs/detector --clients 64 --queue 16 --requests 50

Starts the service of a checkpoint, after it has predicted some pictures itself: so the answers are known. Then clients
send these pictures, and damaged ones among them, first as many clients as the service has places, and then more. Who
gets 503 waits as long as `Retry-After` says and tries again. The status is 0 if no answer was lost, wrong or of another
picture, damaged pictures were refused, 503 came in time, and overload took no more memory than was allowed.
"""

import argparse
import json
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pe_spatial.commands.options import CommandParser, add_shared, number_in, positive
from pe_spatial.commands.shell import run_module
from pe_spatial.common.errors import UserError

SIZES = ((240, 320), (480, 640), (333, 500), (640, 427))  # (H, W) of the pictures that are made
_TIMEOUT = 120.0  # seconds for an answer


@dataclass
class Question:
    """A picture, and the answer to it: what JSON it gives, or None for one that must be refused."""

    content: bytes
    answer: Mapping[str, float] | None


@dataclass
class Phase:
    """What came of a number of clients.

    Attributes:
        near: Share by which the numbers of a right answer may differ.
        outcomes: How often an answer was right, wrong, refused as it should be, or lost.
        seconds: Of right answers, from the request that was let in.
        busy: Seconds until each 503.
        memory: Largest of the service, in bytes.
    """

    clients: int
    near: float
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    memory: float = 0.0
    duration: float = 0.0
    problems: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add_shared(parser, "--checkpoint", "--input", required=["--checkpoint"])
    add("--clients", type=positive, default=48, metavar="N", help="at once, in the second phase")
    add("--requests", type=positive, default=20, metavar="N", help="of each client")
    add("--queue", type=positive, default=16, metavar="N", help="of the service")
    add("--max-batch", type=positive, default=4, metavar="N", help="of the service")
    add("--tolerance", type=number_in(0, 1), default=0.01, metavar="X", help="share by which numbers may differ")
    add("--busy-seconds", type=number_in(0), default=1.0, metavar="S", help="in which 503 has to come")
    add(
        "--memory-growth",
        type=positive,
        default=200,
        metavar="MB",
        help="that overload may take beyond the first phase",
    )


def run(options: argparse.Namespace) -> int:
    """Run both phases, print their table, and return the exit status."""
    questions = known_answers(options.checkpoint, list(pictures(options.input)))
    require_distinct(questions, options.tolerance)
    questions += [Question(content, None) for content in damaged(questions[0].content)]
    print(f"{len(questions)} pictures, the last {sum(q.answer is None for q in questions)} of them damaged")
    with running(options) as port:
        numbers = (options.queue, options.clients)
        phases = [load(port, questions, clients, options.requests, options.tolerance) for clients in numbers]
    show(phases)
    failures = judge(phases, options.busy_seconds, options.memory_growth * 1e6)
    print("\n".join(failures) or "passed")
    return 1 if failures else 0


# --- what is asked ----------------------------------------------------------------------------------------------------
def pictures(source: str | None) -> Iterator[bytes]:
    """The files of `--input`, or pictures of colored clouds in several sizes, three of each."""
    if source is not None:
        from pe_spatial.common.sources import resolve_sources

        yield from (entry.path.read_bytes() for entry in resolve_sources(source, ["image"]) if entry.archive is None)
        return
    for number, size in enumerate(SIZES * 3):
        generator = np.random.default_rng(number)
        coarse = generator.integers(0, 256, (2 + number, 3 + number, 3), np.uint8)
        buffer = BytesIO()
        Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


def known_answers(checkpoint: Path, contents: Sequence[bytes]) -> list[Question]:
    """What the library itself predicts, picture by picture."""
    from pe_spatial.inference.tasks import open_predictor
    from service.answers import render

    predictor = open_predictor(checkpoint, None, 1, [])
    answers = [render(predictor(content), "json", 0.0)[0] for content in contents]
    return [Question(content, fingerprint(json.loads(a))) for content, a in zip(contents, answers, strict=True)]


def damaged(content: bytes) -> list[bytes]:
    """What must be refused: half of a picture, and no picture."""
    return [content[: len(content) // 2], b"no picture at all"]


def fingerprint(answer: Any, name: str = "") -> dict[str, float]:  # noqa: ANN401 - JSON
    """The numbers of an answer by their names, added up over lists; masks count by their area."""
    if isinstance(answer, int | float):
        return {name: float(answer)}
    parts: list[tuple[str, Any]] = []
    if isinstance(answer, dict):
        parts = [(f"{name}/{key}", part) for key, part in answer.items() if key != "segmentation"]
    elif isinstance(answer, list):
        parts = [(name, part) for part in answer]
    total: dict[str, float] = {}
    for place, part in parts:
        for key, number in fingerprint(part, place).items():
            total[key] = total.get(key, 0.0) + number
    return total


def is_same(found: Mapping[str, float], expected: Mapping[str, float], near: float) -> bool:
    """Whether two answers are of one picture: their numbers differ by less than the share `near`."""
    largest = max(expected.values(), default=1.0)
    return all(
        abs(found.get(name, 0) - expected.get(name, 0)) <= near * max(abs(expected.get(name, 0)), near * largest)
        for name in found.keys() | expected.keys()
    )


def require_distinct(questions: Sequence[Question], near: float) -> None:
    """Refuse pictures whose answers are alike: a mixed-up answer would not be noticed.

    Raises:
        UserError: Two of them are.
    """
    for number, question in enumerate(questions):
        for other in range(number):
            if is_same(question.answer or {}, questions[other].answer or {}, near):
                raise UserError(
                    f"the answers to pictures {other} and {number} differ by less than {near:g}, so mixing them up "
                    "would not be noticed; give other pictures with --input, or a smaller --tolerance"
                )


# --- asking -----------------------------------------------------------------------------------------------------------
@contextmanager
def running(options: argparse.Namespace) -> Iterator[int]:
    """The service in a process of its own; gives its port. It is asked to stop at the end, and must do so."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    limits = ["--queue", options.queue, "--max-batch", min(options.max_batch, options.queue), "--threshold", 0]
    command = [sys.executable, "-m", "service", "--checkpoint", options.checkpoint, "--port", port, *limits]
    process = subprocess.Popen(list(map(str, command)), cwd=Path(__file__).parents[1])
    try:
        while status(port, "/ready") != 200:
            if process.poll() is not None:
                raise UserError(f"the service ended with status {process.returncode}; it has said why")
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=60)


def status(port: int, path: str) -> int | None:
    """The status of a GET; None where nobody listens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def load(port: int, questions: Sequence[Question], clients: int, requests: int, near: float) -> Phase:
    """Let so many clients ask at once."""
    phase = Phase(clients, near)
    done = threading.Event()
    watcher = threading.Thread(target=watch_memory, args=(port, phase, done))
    threads = [threading.Thread(target=ask_all, args=(port, questions, requests, phase, n)) for n in range(clients)]
    started = time.perf_counter()
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    phase.duration = time.perf_counter() - started
    done.set()
    watcher.join()
    return phase


def ask_all(port: int, questions: Sequence[Question], requests: int, phase: Phase, seed: int) -> None:
    """One client: pictures in an order of its own, one after the other, on one connection."""
    generator = random.Random(seed)
    connection = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    for _ in range(requests):
        question = generator.choice(questions)
        try:
            outcome = ask(connection, question, phase)
        except (OSError, HTTPException, ValueError) as error:
            outcome = "lost"
            phase.problems.append(f"lost: {type(error).__name__}: {error}")
            connection.close()
        with phase.lock:
            phase.outcomes[outcome] += 1
    connection.close()


def ask(connection: HTTPConnection, question: Question, phase: Phase) -> str:
    """Send a picture until the service takes it; says what the answer was."""
    while True:
        started = time.perf_counter()
        connection.request("POST", "/predict", question.content, {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        body = response.read()
        seconds = time.perf_counter() - started
        if response.status == 503:
            with phase.lock:
                phase.busy.append(seconds)
            connection.close()  # the service closes those that are idle for long; the next request opens it again
            time.sleep(float(response.headers["Retry-After"]))
        elif response.status != 200:
            if question.answer is None and response.status in (415, 422):
                return "refused"
            phase.problems.append(f"status {response.status}: {body[:200]!r}")
            return "wrong"
        else:
            with phase.lock:
                phase.seconds.append(seconds)
            is_right = question.answer is not None and is_same(
                fingerprint(json.loads(body)), question.answer, phase.near
            )
            return "right" if is_right else "wrong"


def watch_memory(port: int, phase: Phase, done: threading.Event) -> None:
    """Note the largest memory of the service."""
    is_last = False
    while not is_last:
        is_last = done.wait(0.2)
        connection = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        phase.memory = max(phase.memory, float(figures["process_resident_memory_bytes"]))


# --- what came of it --------------------------------------------------------------------------------------------------
def show(phases: Sequence[Phase]) -> None:
    """Print the table."""
    print("clients  right  wrong  lost  damaged  503s  slowest 503  pictures/s  median  slowest  memory")
    for phase in phases:
        print(
            f"{phase.clients:7}  {phase.outcomes['right']:5}  {phase.outcomes['wrong']:5}  {phase.outcomes['lost']:4}  "
            f"{phase.outcomes['refused']:7}  {len(phase.busy):4}  {max(phase.busy, default=0):9.3f} s  "
            f"{phase.outcomes['right'] / phase.duration:10.1f}  {statistics.median(phase.seconds or [0]):4.2f} s  "
            f"{max(phase.seconds, default=0):5.2f} s  {phase.memory / 1e6:4.0f} MB"
        )


def judge(phases: Sequence[Phase], busy_seconds: float, growth: float) -> list[str]:
    """What is not as it should be."""
    usual, overload = phases
    failures = [problem for phase in phases for problem in phase.problems[:5]]
    for phase in phases:
        bad = phase.outcomes["wrong"] + phase.outcomes["lost"]
        failures += [f"{bad} of {sum(phase.outcomes.values())} answers are wrong or lost"] if bad else []
    if usual.busy:
        failures.append(f"{len(usual.busy)} times 503 although there were as many places as clients")
    if overload.clients > usual.clients and not overload.busy:
        failures.append("no 503, so there was no overload; give more --clients")
    if max(overload.busy, default=0) > busy_seconds:
        failures.append(f"503 after {max(overload.busy):.2f} s; at most {busy_seconds:g} s are allowed")
    if overload.memory - usual.memory > growth:
        failures.append(
            f"overload took {(overload.memory - usual.memory) / 1e6:.0f} MB; {growth / 1e6:.0f} are allowed"
        )
    return failures


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], "python -m service.load_test"))
