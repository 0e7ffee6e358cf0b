"""Commands that are killed at random moments, and what must hold of their folder of results.

PE_SPATIAL_KILLS kills more often.
"""

import contextlib
import json
import os
import random
import time

from children import CONTEXT

from pe_spatial.common.records import Records

KILLS = int(os.environ.get("PE_SPATIAL_KILLS", "5"))  # by each signal
IN_A_FOLDER = 3  # kills of one command after another, before it may end


def start_process(target, *arguments, **options):
    """A process of its own that runs `target(*arguments, **options)`."""
    process = CONTEXT.Process(target=target, args=arguments, kwargs=options)
    process.start()
    return process


def status_of(process):
    """The exit status of a process, once it has ended."""
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


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.name.endswith((".writing", "-journal")) and path.stat().st_size]


def seconds_of(finish, *arguments):
    """The time that a run takes that nothing disturbs, and that is not the first: that one starts the server."""
    begin = time.monotonic()
    assert finish(*arguments) == 0
    return time.monotonic() - begin


def kill_at_random(start, output, log, number, seconds, killed=lambda status: None):
    """Start a command until it ends by itself, and kill it a few times before.

    Args:
        start: Starts the command and returns its process.
        output: Its folder of results. What is recorded there as finished must not be done again.
        log: File with a line for everything that the command does.
        number: Signal to send.
        seconds: What a run takes that nothing disturbs.
        killed: Looks at the folder after a kill; takes the exit status.

    Returns:
        How often it was killed.
    """
    kills = 0
    while True:
        before = finished(output)
        process = start()
        if kills < IN_A_FOLDER:
            process.join(random.uniform(0.2, 1.0) * seconds)
            if process.exitcode is None:
                with contextlib.suppress(ProcessLookupError):  # it ended of itself between the question and the signal
                    os.kill(process.pid, number)
        status = status_of(process)
        again = set(log.read_text().splitlines() if log.exists() else ()) & before
        log.unlink(missing_ok=True)
        assert not again, f"{again} were finished before"
        if status == 0:
            return kills
        kills += 1
        assert status in (-number, 130)
        killed(status)
