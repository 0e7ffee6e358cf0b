"""Writing files: old or new and never between, whatever ends the writer, and no litter."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from itertools import count

import numpy as np
import pytest

from pe_spatial.common import files
from pe_spatial.common.errors import FullDiskError, OptionError
from pe_spatial.common.files import (
    atomic_folder,
    atomic_path,
    is_full_disk,
    put_in_place,
    remove_leftovers,
    temporary_path,
    write_atomically,
    write_json,
    write_json_stream,
    write_new,
    write_text,
)


# --- one file ---------------------------------------------------------------------------------------------------------
def test_what_is_written_is_read(tmp_path):
    for content in (b"", b"one", b"two"):
        write_atomically(tmp_path / "a", lambda file, content=content: file.write(content))
        assert (tmp_path / "a").read_bytes() == content
    assert os.listdir(tmp_path) == ["a"]


def test_the_file_is_on_the_disk_before_it_gets_its_name_and_the_folder_after(tmp_path, monkeypatch):
    steps = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (steps.append(os.fstat(number).st_ino), sync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("replace"), replace(*names)))
    write_text(tmp_path / "a", "text")
    assert steps == [(tmp_path / "a").stat().st_ino, "replace", tmp_path.stat().st_ino]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_a_failed_write_leaves_the_old_file(tmp_path, error):
    write_text(tmp_path / "a", "old")

    def fail(file):
        file.write(b"half")
        raise error

    with pytest.raises(error):
        write_atomically(tmp_path / "a", fail)
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "文" * 85, ".hidden", "x" * 251 + ".png"])
def test_names_as_long_as_the_file_system_takes(tmp_path, name):
    write_text(tmp_path / name, "long")
    assert (tmp_path / name).read_text() == "long"
    assert os.listdir(tmp_path) == [name]


def test_a_name_that_is_no_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    write_text(tmp_path / name, name)
    assert (tmp_path / name).read_bytes() == b"caf\xe9.txt"


def test_errors_name_the_file_itself(tmp_path):
    path = tmp_path / "missing" / "a"
    with pytest.raises(FileNotFoundError) as caught:
        write_text(path, "text")
    assert caught.value.filename == str(path)


def test_a_full_disk_names_the_file_and_the_free_space(tmp_path, small_files):
    write_text(tmp_path / "a", "old")
    message = r"/a cannot be written .*[\d,]+ bytes are free"
    with small_files(10_000), pytest.raises(FullDiskError, match=message) as caught:
        write_text(tmp_path / "a", "x" * 1_000_000)
    assert is_full_disk(caught.value)
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_new_file_replaces_none(tmp_path, small_files):
    write_new(tmp_path / "a", lambda file: file.write(b"old"))
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a", lambda file: file.write(b"new"))
    assert (tmp_path / "a").read_bytes() == b"old"
    with small_files(10_000), pytest.raises(FullDiskError, match=r"b cannot be written"):
        write_new(tmp_path / "b", lambda file: file.write(bytes(1 << 20)))


def test_a_full_disk_that_shows_when_the_file_is_synced(tmp_path, monkeypatch):
    def fail(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FullDiskError):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"


def test_a_file_filled_step_by_step(tmp_path):
    path = tmp_path / "a.npy"
    with atomic_path(path) as temporary:
        array = np.lib.format.open_memmap(temporary, "w+", np.float32, (2, 3))
        array[:] = 7
        array.flush()
        assert not path.exists()
    assert (np.load(path) == 7).all()
    assert os.listdir(tmp_path) == ["a.npy"]


# --- folders ----------------------------------------------------------------------------------------------------------
def fill(folder, error=None):
    with atomic_folder(folder) as new:
        (new / "sub").mkdir()
        (new / "sub" / "file").write_text("content")
        if error is not None:
            raise error


@pytest.mark.parametrize("before", ["missing", "without parent", "empty", "a link to an empty one"])
def test_a_folder_is_there_when_it_is_whole(tmp_path, before):
    folder = tmp_path / "deep" / "a" if before == "without parent" else tmp_path / "a"
    if before == "empty":
        folder.mkdir()
    if before.startswith("a link"):
        (tmp_path / "real").mkdir()
        folder.symlink_to(tmp_path / "real")
    fill(folder)
    assert (folder / "sub" / "file").read_text() == "content"
    assert not [name for name in os.listdir(folder.parent) if name.startswith(".")]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError(), OSError()])
def test_a_folder_that_is_not_finished_is_not_there(tmp_path, error):
    with pytest.raises(type(error)):
        fill(tmp_path / "a", error)
    assert not os.listdir(tmp_path)


def test_a_folder_with_content_is_never_replaced(tmp_path):
    fill(tmp_path / "a")
    (tmp_path / "a" / "mine").write_text("")
    with pytest.raises(OSError):
        fill(tmp_path / "a")
    assert sorted(os.listdir(tmp_path / "a")) == ["mine", "sub"] and os.listdir(tmp_path) == ["a"]


def test_errors_name_the_folder_itself(tmp_path, small_files):
    with pytest.raises(FileNotFoundError) as caught, atomic_folder(tmp_path / "a") as new:
        write_new(new / "missing" / "file", lambda file: None)
    assert caught.value.filename == str(tmp_path / "a" / "missing" / "file")
    full = pytest.raises(FullDiskError, match=r"/a cannot be written")
    with small_files(10_000), full, atomic_folder(tmp_path / "a") as new:
        write_new(new / "file", lambda file: file.write(bytes(1 << 20)))


def test_a_mounted_disk_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "a")
    with pytest.raises(OptionError, match="/a is a mount point.*inside it"):
        fill(tmp_path / "a")


def test_what_a_killed_process_left_of_a_folder_goes_with_the_next_one(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from pe_spatial.common.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as new: (new / 'file').write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a"])  # noqa: PLW1510 - it is killed
    subprocess.run([sys.executable, "-c", code, tmp_path / "ab"])  # noqa: PLW1510
    assert len(os.listdir(tmp_path)) == 2 and not (tmp_path / "a").exists()
    fill(tmp_path / "a")
    (other,) = (name for name in os.listdir(tmp_path) if name != "a")
    assert other.startswith(".ab.")


# --- many writers -----------------------------------------------------------------------------------------------------
def test_threads_that_write_one_file_leave_one_of_their_versions(tmp_path):
    path, versions = tmp_path / "a", [bytes([65 + number]) * 200_000 for number in range(4)]

    def write(version):
        for _ in range(20):
            write_atomically(path, lambda file: [file.write(version[:100_000]), file.write(version[100_000:])])

    write(versions[0])
    threads = [threading.Thread(target=write, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_bytes() in versions
    assert os.listdir(tmp_path) == ["a"]


WRITER = """
import sys
from pathlib import Path
from pe_spatial.common.files import write_atomically
path, number = Path(sys.argv[1]), 0
while True:
    number += 1
    def write(file):
        for _ in range(50):
            file.write(b"%08d" % number * 100)
            file.flush()
    write_atomically(path, write)
    if number == 1:
        print("ready", flush=True)
"""


def start_writer(path):
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    return child


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a"
    for delay in (0.0, 0.003, 0.01, 0.02):
        child = start_writer(path)
        time.sleep(delay)
        child.kill()
        child.wait()
        content = path.read_bytes()
        assert content == content[:8] * 5000
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["a"]


# --- leftovers --------------------------------------------------------------------------------------------------------
LEAVE = """
import sys, time
from pathlib import Path
from pe_spatial.common.files import temporary_path
temporary_path(Path(sys.argv[1])).write_text("half")
print("ready", flush=True)
time.sleep(60)
"""


def test_only_files_of_dead_processes_are_leftovers(tmp_path):
    (tmp_path / "below").mkdir()
    write_text(tmp_path / "a", "whole")
    places = [tmp_path / "a", tmp_path / "below" / "b"]
    children = [subprocess.Popen([sys.executable, "-c", LEAVE, str(path)], stdout=subprocess.PIPE) for path in places]
    ours = temporary_path(tmp_path / "c")
    ours.write_text("half")
    for child in children:
        child.stdout.readline()
    remove_leftovers(tmp_path, recursive=True)
    assert len(list(tmp_path.rglob(".*.writing"))) == 3  # all of them live
    for child in children:
        child.kill()
    while any((state := child_state(child.pid)) != "Z" for child in children):
        time.sleep(0.01)
    remove_leftovers(tmp_path)  # dead, though their parent has not asked yet how they ended
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ours.name, "a", "below"])
    assert len(os.listdir(tmp_path / "below")) == 1
    remove_leftovers(tmp_path, recursive=True)
    assert os.listdir(tmp_path / "below") == []
    assert state == "Z"
    for child in children:
        child.wait()


def child_state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_another_process_with_the_number_of_a_dead_one_does_not_keep_its_files(tmp_path, monkeypatch):
    temporary = temporary_path(tmp_path / "a")
    temporary.write_text("half")
    remove_leftovers(tmp_path)
    assert temporary.exists()
    start = files._start_of(os.getpid())
    temporary.rename(tmp_path / temporary.name.replace(f"-{start}-", f"-{start - 1}-"))
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [".a.00000000-1-5-0.writing", ".iter_5.pth.123.writing"])
def test_files_of_other_machines_are_leftovers_after_a_day(tmp_path, name):
    path = tmp_path / name
    path.write_text("half")
    remove_leftovers(tmp_path)
    assert path.exists()
    yesterday = time.time() - 25 * 3600
    os.utime(path, (yesterday, yesterday))
    remove_leftovers(tmp_path)
    assert not path.exists()


def test_other_files_are_no_leftovers(tmp_path):
    names = ["a.writing", ".a.partial", "writing", "iter_5.pth"]
    for name in names:
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "missing")
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_a_filled_file_moves_with_its_content(tmp_path):
    temporary = temporary_path(tmp_path / "a")
    assert temporary != temporary_path(tmp_path / "a")
    temporary.write_text("whole")
    put_in_place(temporary, tmp_path / "b")
    assert (tmp_path / "b").read_text() == "whole"
    assert os.listdir(tmp_path) == ["b"]


# --- JSON -------------------------------------------------------------------------------------------------------------
def test_json_is_read_back(tmp_path):
    content = {"b": [1, None, "é\ud800"], "a": {"x": 1.5}}
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == content
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["b", "a"]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"files": []},
        {"run": {"model": "x"}, "files": [{"n": 1}, {"n": [2, 3]}], "total": 3, "none": None},
        {"files": [1], "more": ["a", [], {}]},
    ],
)
def test_a_stream_of_entries_is_the_same_object(tmp_path, content):
    path = tmp_path / "a.json"
    write_json_stream(path, content)
    assert json.loads(path.read_text()) == content
    assert list(json.loads(path.read_text())) == list(content)
    whole = path.read_text()
    pairs = ((key, iter(value) if isinstance(value, list) else value) for key, value in content.items())
    write_json_stream(path, pairs)
    assert path.read_text() == whole
    for value in content.values():
        if isinstance(value, list):
            assert all(any(line.strip(" ,") == json.dumps(entry) for line in whole.splitlines()) for entry in value)


def test_a_stream_holds_one_entry_at_a_time(tmp_path):
    alive, most = count(), []

    class Entry(dict):
        living = 0

        def __init__(self):
            super().__init__(number=next(alive))
            Entry.living += 1

        def __del__(self):
            Entry.living -= 1

    def entries():
        for _ in range(1000):
            most.append(Entry.living)
            yield Entry()

    write_json_stream(tmp_path / "a.json", {"files": entries()})
    assert len(json.loads((tmp_path / "a.json").read_text())["files"]) == 1000
    assert max(most) <= 2
