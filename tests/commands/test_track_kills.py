"""pe-spatial track, killed at any moment: finished videos are left alone, and the files are the same in the end."""

import os
import random
import signal
import sys
import time

import pytest
import torch
from children import CONTEXT
from test_predict_kills import finished, leftovers, results
from test_track import CONFIG, root  # noqa: F401 (a fixture)

from pe_spatial.commands.shell import run_command
from pe_spatial.common.video import writing
from pe_spatial.tracking import results as tracking_results
from pe_spatial.tracking import running

KILLS = 12


def track(config, output, options, log, save_every, sabotage):
    """A run in a process of its own, which notes the videos that it tracks; ends the process with the exit status."""
    torch.set_num_threads(1)
    tracking_results.SAVE_EVERY = save_every
    tracked = running.track_video

    def noted(tracker, name, *arguments):
        with open(log, "a") as file:
            file.write(f"{name}\n")
        return tracked(tracker, name, *arguments)

    running.track_video = noted
    if sabotage:
        writing.put_in_place = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    arguments = ["--config", config, "--output", output, "--device", "cpu", "--mot", *options]
    sys.exit(run_command("track", [str(argument) for argument in arguments]))


def start(root, output, *options, log=os.devnull, save_every=10.0, sabotage=False):  # noqa: F811
    process = CONTEXT.Process(target=track, args=(root / "tiny.yaml", output, options, log, save_every, sabotage))
    process.start()
    return process


def finish(*arguments, **options):
    process = start(*arguments, **options)
    process.join(300)
    return process.exitcode


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):  # noqa: F811
    """Results of a run that nothing disturbed, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    begin = time.monotonic()
    assert finish(root, folder) == 0
    return results(folder), time.monotonic() - begin


@pytest.mark.parametrize("save_every", [0.0, 10.0])  # goes on in the midst of a video, and from its start
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_kills_at_random_moments(root, whole, number, save_every, tmp_path):  # noqa: F811
    random.seed(number)
    expected, duration = whole
    kills, attempt, log = 0, 0, tmp_path / "log"
    while kills < KILLS:
        output = tmp_path / f"out{attempt}"
        while True:
            before = finished(output)
            process = start(root, output, log=log, save_every=save_every)
            process.join(random.uniform(0.3, 1.0) * duration)
            if process.exitcode is None:
                os.kill(process.pid, number)
            process.join(300)
            tracked = set(log.read_text().split()) if log.exists() else set()
            log.unlink(missing_ok=True)
            assert not tracked & before, f"{tracked & before} were finished before"
            if process.exitcode == 0:
                break
            kills += 1
            assert process.exitcode in (-number, 130)
        assert results(output) == expected and not leftovers(output)
        assert not list((output / ".pe_spatial" / "resume").glob("*.pt"))
        attempt += 1


def test_a_video_that_is_killed_while_it_is_closed_is_done_again(root, whole, tmp_path):  # noqa: F811
    assert finish(root, tmp_path / "out", sabotage=True) == -signal.SIGKILL
    assert not finished(tmp_path / "out") and not (tmp_path / "out" / "first.mp4").exists()
    assert finish(root, tmp_path / "out") == 0
    assert results(tmp_path / "out") == whole[0] and not leftovers(tmp_path / "out")


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_shards_give_what_one_run_gives(root, whole, order, tmp_path):  # noqa: F811
    for number in order:
        assert finish(root, tmp_path / "out", "--shard", f"{number}/2") == 0
    assert results(tmp_path / "out") == whole[0]


def test_a_full_disk_is_an_error_and_the_same_command_goes_on(root, whole, tmp_path, small_files, capsys):  # noqa: F811
    arguments = ["--config", str(root / "tiny.yaml"), "--output", str(tmp_path / "out"), "--device", "cpu", "--mot"]
    with small_files(12_000):  # which the records outgrow first
        assert run_command("track", arguments) == 2
    assert "is the disk or a quota full?" in capsys.readouterr().err
    assert run_command("track", arguments) == 0
    assert results(tmp_path / "out") == whole[0] and not leftovers(tmp_path / "out")
