"""Records: what is finished survives, who works in a folder is known, and a million of them cost little."""

import json
import os
import random
import resource
import signal
import sys
import time
from argparse import Namespace

import pytest
from children import CONTEXT

from pe_spatial.common.errors import UserError
from pe_spatial.common.records import Part, Records, stamp_of

RUN = {"task": "detection", "model": "a", "weights": "x"}


def opened(folder, part=None, run=None):
    records = Records(folder, run or RUN, part)
    records.claim([])
    return records


def names_of(records):
    return [unit.name for unit in records.units() if unit.files is not None]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_parts_are_disjoint_and_complete(count):
    items = list(range(20))
    assert sorted(item for number in range(count) for item in Part(number, count).of(items)) == items
    processes = [Part(rank, 3).within(Part(shard, count)) for shard in range(count) for rank in range(3)]
    assert sorted(item for part in processes for item in part.of(items)) == items


def test_contents_come_in_the_order_of_names_from_all_parts(tmp_path):
    names = [f"{number}.jpg" for number in range(1000)] + ["ü.png", "\udcff.png", "a/b.png"]
    random.seed(0)
    random.shuffle(names)
    for number in range(3):
        records = opened(tmp_path, Part(number, 3))
        for name in Part(number, 3).of(names):
            records.add(name, {"file_name": name})
        records.close()
    reader = Records(tmp_path, RUN)
    expected = sorted(names, key=os.fsencode)
    assert [content["file_name"] for content in reader.contents()] == expected == names_of(reader)


def test_the_latest_word_counts_whoever_says_it(tmp_path):
    first = opened(tmp_path, Part(0, 2))
    for name in ("a", "b", "c", "d"):
        first.add(name, {"file_name": name, "by": "first"})
    first.fail("d", "unreadable")
    first.close()
    second = opened(tmp_path, Part(1, 2))
    second.add("a", {"file_name": "a", "by": "second"})
    second.forget(["b"])
    second.add("d", {"file_name": "d", "by": "second"})
    second.close()
    contents = list(Records(tmp_path, RUN).contents())
    assert [(content["file_name"], content["by"]) for content in contents] == [
        ("a", "second"),
        ("c", "first"),
        ("d", "second"),
    ]


def test_frames_count_when_their_video_is_finished(tmp_path):
    records = opened(tmp_path)
    for frame in range(500):
        records.add_frame("v.mp4", frame, {"frame": frame})
    assert not list(records.contents())
    records.add("w.jpg", {"frame": "image"})
    records.add("v.mp4", None, (1, 2), {"labels": ["x"]}, 450)  # it was cut in between
    assert [content["frame"] for content in records.contents()] == [*range(450), "image"]
    assert (unit := next(records.units())).stamp == (1, 2) and unit.frames == 450 and unit.paths() == {"labels": ["x"]}


def test_a_changed_file_has_another_stamp(tmp_path):
    path = tmp_path / "a"
    assert stamp_of(path) is None
    path.write_bytes(b"x")
    stamp = stamp_of(path)
    assert stamp == stamp_of(path)
    os.utime(path, ns=(0, stamp[1] + 1))
    assert stamp_of(path) != stamp


# --- who works there --------------------------------------------------------------------------------------------------
def test_a_part_and_its_split_have_one_process(tmp_path):
    first = opened(tmp_path, Part(0, 3))
    second = opened(tmp_path, Part(1, 3))
    for part in (Part(0, 3), Part(1, 3), Part(0, 1), Part(1, 2)):
        with pytest.raises(UserError, match="in use"):
            opened(tmp_path, part)
    first.close()
    opened(tmp_path, Part(0, 3)).close()
    with pytest.raises(UserError, match="in use"):
        opened(tmp_path, Part(0, 2))
    second.close()
    opened(tmp_path, Part(0, 2)).close()


def hold(folder, ready):
    records = opened(folder)
    records.add("a", {"file_name": "a"})
    ready.set()
    time.sleep(100)


def test_a_killed_process_leaves_its_records_and_no_lock(tmp_path):
    ready = CONTEXT.Event()
    process = CONTEXT.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(100)
    with pytest.raises(UserError, match=str(process.pid)):
        opened(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert names_of(opened(tmp_path)) == ["a"]


def test_another_run_is_refused_and_the_differences_are_named(tmp_path):
    first = opened(tmp_path)
    first.add("a", {})
    first.close()
    opened(tmp_path, run={**RUN, "model": "renamed"}).close()  # its weights count
    with pytest.raises(UserError, match="weights 'x' instead of 'y', threshold None instead of 0.5"):
        opened(tmp_path, run={**RUN, "weights": "y", "threshold": 0.5})


def test_a_run_that_finished_nothing_does_not_count_unless_it_is_at_work(tmp_path):
    first = opened(tmp_path, Part(0, 2))
    for part in (Part(0, 2), Part(1, 2)):
        with pytest.raises(UserError, match="in use"):
            opened(tmp_path, part, {"task": "depth"})
    first.close()
    second = opened(tmp_path, Part(1, 2), {"task": "depth"})
    second.add("a", {})
    second.close()
    with pytest.raises(UserError, match="task 'depth' instead of 'detection'"):
        opened(tmp_path)


def test_files_of_unknown_origin_are_refused_and_nothing_is_left(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/mine.png").touch()
    with pytest.raises(UserError, match="unknown origin"):
        Records(tmp_path, RUN).claim(["labels"])
    assert [path.name for path in tmp_path.iterdir()] == ["labels"]


def test_a_damaged_database_is_named(tmp_path):
    opened(tmp_path).close()
    (path := next(tmp_path.glob(".pe_spatial/*.sqlite"))).write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match=f"^{path} is damaged .*delete it"):
        opened(tmp_path)


# --- many -------------------------------------------------------------------------------------------------------------
def restart(folder, number, report):
    """What a run does before its first picture, in a process of its own; the files are simulated."""
    from pe_spatial.inference import writer as writers

    class Writer(writers.ResultsWriter):
        result = "list.json"
        describe = draw = write_lists = None

    writers.stamp_of = lambda path: (1, 2)
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    names = {f"{index:07d}.jpg": "" for index in range(number + 1)}
    missing = Writer(Records(folder, RUN), {}, None, Namespace(no_pictures=True)).plan(names)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report.write_text(json.dumps({"missing": missing, "seconds": time.process_time() - begin, "memory": peak - before}))
    sys.exit(0)


@pytest.mark.slow
def test_a_restart_costs_microseconds_and_bytes_for_each_finished_picture(tmp_path):
    number = 100_000
    records = opened(tmp_path)
    rows = ((b"%07d.jpg" % index, index, 1, 2, None, None, "{}") for index in range(number))
    records._write(("INSERT INTO units VALUES (?, ?, ?, ?, ?, ?, ?)", rows))
    records.close()
    process = CONTEXT.Process(target=restart, args=(tmp_path, number, tmp_path / "report.json"))
    process.start()
    process.join(500)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["missing"] == [f"{number:07d}.jpg"]
    assert report["seconds"] < 30e-6 * number and report["memory"] * 2**20 < 1000 * number
