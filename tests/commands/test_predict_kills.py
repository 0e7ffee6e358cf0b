"""pe-spatial predict, killed at any moment: the next run does only what is missing, and the files are the same."""

import json
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from children import CONTEXT
from small_checkpoints import LISTS, SAVE, save_input

from pe_spatial.commands.shell import run_command
from pe_spatial.common.records import Records
from pe_spatial.common.video import writing
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.writer import ResultsWriter

KILLS = 12


def predict(checkpoint, source, output, *options, log=None, sabotage=None):
    """A run in a process of its own, which notes what it computes; ends the process with the exit status."""
    torch.set_num_threads(1)
    if log is not None:
        load = Predictor.load

        def noted(self, picture, *channels):
            with open(log, "a") as file:
                file.write(f"{picture if isinstance(picture, Path) else 'frame'}\n")
            return load(self, picture, *channels)

        Predictor.load = noted
    if sabotage is not None:
        sabotage()
    arguments = ["--checkpoint", checkpoint, "--input", source, "--output", output, "--device", "cpu", *options]
    sys.exit(run_command("predict", [str(argument) for argument in arguments]))


def start(*arguments, **options):
    process = CONTEXT.Process(target=partial(predict, *arguments, **options))
    process.start()
    return process


def finish(*arguments, **options):
    process = start(*arguments, **options)
    process.join(300)
    return process.exitcode


def results(folder):
    """The content of every file of the results."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".pe_spatial" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def finished(folder):
    """The names that are recorded as finished, by all processes."""
    run = folder / ".pe_spatial/run.json"
    records = Records(folder, json.loads(run.read_text())) if run.is_file() else None
    return {unit.name for unit in records.units() if unit.files} if records else set()


def computed(log, source):
    """Names of the pictures that a run has loaded; of a video one per frame."""
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line if line == "frame" else Path(line).relative_to(source).as_posix() for line in lines]


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.name.endswith((".writing", "-journal")) and path.stat().st_size]


@pytest.fixture(scope="module", params=list(LISTS))
def task(request):
    return request.param


@pytest.fixture(scope="module")
def place(tmp_path_factory, task):
    """A folder with a checkpoint, an input, and the results `whole` of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp(task)
    SAVE[task](folder / "model.pth")
    save_input(folder / "input")
    assert finish(folder / "model.pth", folder / "input", folder / "whole") == 0
    assert LISTS[task] in results(folder / "whole")
    return folder


def duration_of(place, folder):
    """Seconds that the work of an undisturbed run takes."""
    begin = time.monotonic()
    assert finish(place / "model.pth", place / "input", folder) == 0
    return time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_kills_at_random_moments(task, place, number, tmp_path):
    """Whatever a kill meets, nothing finished is computed again, and in the end all files are the same."""
    random.seed(number)
    whole, log = results(place / "whole"), tmp_path / "log"
    duration, kills, attempt = duration_of(place, tmp_path / "measured"), 0, 0
    while kills < KILLS:
        output = tmp_path / f"out{attempt}"
        while True:
            before = finished(output)
            process = start(place / "model.pth", place / "input", output, log=log)
            process.join(random.uniform(0.2, 1.0) * duration)
            if process.exitcode is None:
                os.kill(process.pid, number)
            process.join(300)
            again = set(computed(log, place / "input")) & before
            assert not again, f"{again} were finished before"
            if process.exitcode == 0:
                break
            kills += 1
            assert process.exitcode in (-number, 130)
            if process.exitcode == 130 and finished(output):
                listed = json.loads((output / LISTS[task]).read_text())
                names = {entry["file_name"] for entry in listed.get("images", listed.get("files"))}
                assert names == finished(output)
        assert results(output) == whole and not leftovers(output)
        attempt += 1


# --- a video that is killed while it is closed ------------------------------------------------------------------------
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def die_before_video():
    """All frames are encoded, and the file is not yet in place."""
    writing.put_in_place = die


def die_after_video():
    """The file is in place, and not yet recorded."""
    add = Records.add
    Records.add = lambda self, *arguments: die() if arguments[4:] else add(self, *arguments)


def die_between_frames():
    count = iter(range(100))
    add_frame = ResultsWriter.add_frame
    ResultsWriter.add_frame = lambda *arguments: die() if next(count) == 1 else add_frame(*arguments)


@pytest.mark.parametrize("sabotage", [die_between_frames, die_before_video, die_after_video])
def test_a_video_is_done_again_whole(place, sabotage, tmp_path):
    arguments = (place / "model.pth", place / "input", tmp_path / "out")
    log = tmp_path / "log"
    assert finish(*arguments, sabotage=sabotage) == -signal.SIGKILL
    assert "film.mp4" not in finished(tmp_path / "out")
    assert finish(*arguments, log=log) == 0
    assert computed(log, place / "input").count("frame") == 3
    assert results(tmp_path / "out") == results(place / "whole") and not leftovers(tmp_path / "out")


# --- shards -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), None])
def test_shards_give_what_one_run_gives(place, order, tmp_path):
    """One after the other in any order, and all at once."""
    arguments = (place / "model.pth", place / "input", tmp_path / "out")
    if order is not None:
        assert [finish(*arguments, "--shard", f"{number}/3") for number in order] == [0, 0, 0]
    else:
        processes = [start(*arguments, "--shard", f"{number}/3") for number in (1, 2, 3)]
        for process in processes:
            process.join(300)
        assert [process.exitcode for process in processes] == [0, 0, 0]
    assert results(tmp_path / "out") == results(place / "whole")
    log = tmp_path / "log"
    assert finish(*arguments, log=log) == 0 and not computed(log, place / "input")  # one process takes over
