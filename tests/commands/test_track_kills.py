"""pe-spatial track, killed at any moment: finished videos are left alone, and the files are the same in the end."""

import os
import random
import shutil
import signal
import sys
from functools import partial

import pytest
import torch
from kills import KILLS, finished, kill_at_random, leftovers, results, seconds_of, start_process, status_of
from test_track import root  # noqa: F401 (a fixture)

from pe_spatial.commands.shell import run_command
from pe_spatial.common.video import writing
from pe_spatial.tracking import results as tracking_results
from pe_spatial.tracking import running


def track(config, output, options, log, save_every, sabotage):
    """A run in a process of its own, which notes the videos that it tracks; ends the process with the exit status."""
    torch.set_num_threads(1)
    tracking_results.SAVE_EVERY = save_every
    tracked = running.track_video

    def noted(tracker, video, *arguments):
        with open(log, "a") as file:
            file.write(f"{video.name}\n")
        return tracked(tracker, video, *arguments)

    running.track_video = noted
    if sabotage:
        writing.put_in_place = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    arguments = ["--config", config, "--output", output, "--device", "cpu", "--mot", *options]
    sys.exit(run_command("track", [str(argument) for argument in arguments]))


def start(root, output, *options, log=os.devnull, save_every=10.0, sabotage=False):  # noqa: F811
    return start_process(track, root / "tiny.yaml", output, options, log, save_every, sabotage)


def finish(*arguments, **options):
    return status_of(start(*arguments, **options))


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):  # noqa: F811
    """Results of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert finish(root, folder) == 0
    return results(folder)


@pytest.mark.parametrize("save_every", [0.0, 10.0])  # goes on in the midst of a video, and from its start
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_kills_at_random_moments(root, whole, number, save_every, tmp_path):  # noqa: F811
    random.seed(number)
    kills, log, seconds = 0, tmp_path / "log", seconds_of(finish, root, tmp_path / "measured")
    while kills < KILLS:
        output = tmp_path / f"out{kills}"
        begin = partial(start, root, output, log=log, save_every=save_every)
        kills += kill_at_random(begin, output, log, number, seconds)
        assert results(output) == whole and not leftovers(output)
        assert not list((output / ".pe_spatial" / "resume").glob("*.pt"))
        shutil.rmtree(output)


def test_a_video_that_is_killed_while_it_is_closed_is_done_again(root, whole, tmp_path):  # noqa: F811
    assert finish(root, tmp_path / "out", sabotage=True) == -signal.SIGKILL
    assert not finished(tmp_path / "out") and not (tmp_path / "out" / "first.mp4").exists()
    assert finish(root, tmp_path / "out") == 0
    assert results(tmp_path / "out") == whole and not leftovers(tmp_path / "out")


def test_shards_give_what_one_run_gives(root, whole, tmp_path):  # noqa: F811
    for number in (2, 1):
        assert finish(root, tmp_path / "out", "--shard", f"{number}/2") == 0
    assert results(tmp_path / "out") == whole


def test_a_full_disk_is_an_error_and_the_same_command_goes_on(root, whole, tmp_path, small_files, capsys):  # noqa: F811
    arguments = ["--config", str(root / "tiny.yaml"), "--output", str(tmp_path / "out"), "--device", "cpu", "--mot"]
    with small_files(12_000):  # which the records outgrow first
        assert run_command("track", arguments) == 2
    assert "is the disk or a quota full?" in capsys.readouterr().err
    assert run_command("track", arguments) == 0
    assert results(tmp_path / "out") == whole and not leftovers(tmp_path / "out")
