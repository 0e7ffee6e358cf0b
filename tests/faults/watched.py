"""Commands in a child process that may neither hang, nor take the memory of the machine, nor end the tests."""

import os
import resource
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from children import CONTEXT

MEMORY = 3 * 2**30  # bytes that a command may take beside what is imported


@dataclass(frozen=True)
class Outcome:
    """How a call ended: its exit status, "bug", "hangs" or "died"; and what it wrote."""

    status: int | str
    out: str
    err: str


class Watched:
    """Runs functions one after the other in one child; `with` ends it. A child that hangs or dies is replaced."""

    def __init__(self, memory=MEMORY, seconds=30):
        self.memory, self.seconds = memory, seconds
        self._process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._end()

    def __call__(self, function, *arguments, **options):
        """An `Outcome` of the call."""
        if self._process is None:
            self._pipe, other = CONTEXT.Pipe()
            self._process = CONTEXT.Process(target=_serve, args=(other, self.memory))
            self._process.start()
            other.close()
        self._pipe.send((function, arguments, options))
        try:
            if self._pipe.poll(self.seconds):
                return Outcome(*self._pipe.recv())
            self._end()
            return Outcome("hangs", "", "")
        except (EOFError, ConnectionError):
            self._process.join()
            status = f"died ({self._process.exitcode})"
            self._end()
            return Outcome(status, "", "")

    def _end(self):
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe, memory):
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, resource.RLIM_INFINITY))
    while True:
        try:
            function, arguments, options = pipe.recv()
        except (EOFError, ConnectionError):
            return
        pipe.send(_call(function, arguments, options))


def _call(function, arguments, options):
    """The status and what was written, also by libraries that know nothing of Python."""
    files = [os.memfd_create(name) for name in ("out", "err")]
    before = [os.dup(number) for number in (1, 2)]
    for file, number in zip(files, (1, 2), strict=True):
        os.dup2(file, number)
    try:
        status = function(*arguments, **options)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = "bug"
    sys.stdout.flush()
    sys.stderr.flush()
    for old, number in zip(before, (1, 2), strict=True):
        os.dup2(old, number)
        os.close(old)
    texts = []
    for file in files:
        with open(file, "rb") as content:
            content.seek(0)
            texts.append(content.read().decode(errors="replace"))
    return status, *texts
