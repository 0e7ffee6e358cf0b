"""Locks on folders: one holder, free again when it ends in whatever way."""

import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.common.locks import FolderInUseError, lock_folder

HOLD = """
import os, sys, time
from pathlib import Path
from pe_spatial.common.locks import lock_folder
with lock_folder(Path(sys.argv[1]), sys.argv[2], "trains in it"):
    if sys.argv[3] == "alone" or os.fork() == 0:
        print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path):
    children = []

    def start(name="lock", how="alone"):
        command = [sys.executable, "-c", HOLD, str(tmp_path), name, how]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        children.append(child)
        assert child.stdout.readline() == b"ready\n"
        return child

    yield start
    for child in children:
        with suppress(ProcessLookupError):  # the test ended it
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def test_a_held_folder_is_refused_with_its_holder(tmp_path, hold):
    child = hold()
    message = f"{tmp_path} is in use: process {child.pid} on {platform.node()} "
    for _ in range(2):  # a refused one leaves the name of the holder to the next
        with pytest.raises(FolderInUseError, match=f"^{message}.*another folder$"), lock_folder(tmp_path):
            pytest.fail("entered a folder in use")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_is_free_when_the_holder_dies(tmp_path, hold, end):
    child = hold()
    child.send_signal(end)
    child.wait()
    with lock_folder(tmp_path):
        assert os.listdir(tmp_path) == [".lock.lock"]


def test_a_worker_does_not_keep_the_lock_of_its_dead_parent(tmp_path, hold):
    child = hold(how="fork")
    child.kill()
    child.wait()
    with lock_folder(tmp_path):
        pass


def test_locks_of_other_names_are_independent(tmp_path, hold):
    hold("train")
    others = lock_folder(tmp_path, "eval"), lock_folder(tmp_path, "rank-1")
    with others[0], others[1], pytest.raises(FolderInUseError), lock_folder(tmp_path, "train"):
        pytest.fail("entered a folder in use")


def test_one_process_enters_once(tmp_path):
    refused = pytest.raises(FolderInUseError, match=f"process {os.getpid()} ")
    with lock_folder(tmp_path / "new"), refused, lock_folder(tmp_path / "new"):
        pytest.fail("entered a folder in use")
    with lock_folder(tmp_path / "new"):
        pass


def test_it_is_free_after_an_error_and_holds_no_name(tmp_path):
    with pytest.raises(KeyboardInterrupt), lock_folder(tmp_path):
        raise KeyboardInterrupt
    assert (tmp_path / ".lock.lock").read_text() == ""
    with lock_folder(tmp_path):
        pass


def test_of_many_that_start_at_once_one_enters(tmp_path):
    code = HOLD.replace("time.sleep(60)\n", "sys.stdin.read()\n", 2)
    commands = [[sys.executable, "-c", code, str(tmp_path), "lock", "alone"] for _ in range(3)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    children = [subprocess.Popen(command, **pipes) for command in commands]
    deadline = time.monotonic() + 60
    while sum(child.poll() is not None for child in children) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    answers = [child.communicate()[0] for child in children]
    assert sorted(answers) == [b"", b"", b"ready\n"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), lock_folder(tmp_path / "file" / "below"):
        pytest.fail("entered a folder that is none")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path.parent / "elsewhere")])
def test_what_is_no_lock_is_named_and_neither_waited_for_nor_written_through(tmp_path, make):
    (tmp_path / "elsewhere").write_text("mine")
    make(tmp_path / ".lock.lock")
    with pytest.raises(UnreadableFile, match=r"\.lock\.lock is not a file of this program"), lock_folder(tmp_path):
        pytest.fail("entered")
    assert (tmp_path / "elsewhere").read_text() == "mine"
