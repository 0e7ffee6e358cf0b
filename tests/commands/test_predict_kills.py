"""pe-spatial predict, killed at any moment: the next run does only what is missing, and the files are the same."""

import json
import os
import random
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from kills import KILLS, finished, kill_at_random, leftovers, results, seconds_of, start_process, status_of
from small_checkpoints import LISTS, SAVE, save_input

from pe_spatial.commands.shell import run_command
from pe_spatial.common.records import Records
from pe_spatial.common.video import writing
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.writer import ResultsWriter


def predict(checkpoint, source, output, *options, log=None, sabotage=None):
    """A run in a process of its own, which notes what it computes; ends the process with the exit status."""
    torch.set_num_threads(1)
    if log is not None:
        load = Predictor.load

        def noted(self, picture, *channels):
            with open(log, "a") as file:
                name = picture.relative_to(source).as_posix() if isinstance(picture, Path) else "frame"
                file.write(f"{name}\n")
            return load(self, picture, *channels)

        Predictor.load = noted
    if sabotage is not None:
        sabotage()
    arguments = ["--checkpoint", checkpoint, "--input", source, "--output", output, "--device", "cpu", *options]
    sys.exit(run_command("predict", [str(argument) for argument in arguments]))


def finish(*arguments, **options):
    return status_of(start_process(predict, *arguments, **options))


def computed(log):
    """Names of the pictures that a run has loaded; of a video one per frame."""
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


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


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_kills_at_random_moments(task, place, number, tmp_path):
    """Whatever a kill meets, nothing finished is computed again, and in the end all files are the same."""
    random.seed(number)
    whole, kills = results(place / "whole"), 0
    log, arguments = tmp_path / "log", (place / "model.pth", place / "input")
    seconds = seconds_of(finish, *arguments, tmp_path / "measured")
    while kills < KILLS:
        output = tmp_path / f"out{kills}"

        def listed(status, output=output):
            if status == 130 and finished(output):
                content = json.loads((output / LISTS[task]).read_text())
                names = {entry["file_name"] for entry in content.get("images", content.get("files"))}
                assert names == finished(output)

        begin = partial(start_process, predict, *arguments, output, log=log)
        kills += kill_at_random(begin, output, log, number, seconds, listed)
        assert results(output) == whole and not leftovers(output)
        shutil.rmtree(output)


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
    assert computed(log).count("frame") == 3
    assert results(tmp_path / "out") == results(place / "whole") and not leftovers(tmp_path / "out")


# --- shards -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", [(3, 1, 2), None])
def test_shards_give_what_one_run_gives(place, order, tmp_path):
    """One after the other in any order, and all at once."""
    arguments = (place / "model.pth", place / "input", tmp_path / "out")
    if order is not None:
        assert [finish(*arguments, "--shard", f"{number}/3") for number in order] == [0, 0, 0]
    else:
        processes = [start_process(predict, *arguments, "--shard", f"{number}/3") for number in (1, 2, 3)]
        assert [status_of(process) for process in processes] == [0, 0, 0]
    assert results(tmp_path / "out") == results(place / "whole")
    log = tmp_path / "log"
    assert finish(*arguments, log=log) == 0 and not computed(log)  # one process takes over
