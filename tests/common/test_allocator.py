"""Freed memory stays with the process, unless the user has decided otherwise."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from pe_spatial.common.allocator import default_allocator, keep_freed_memory

def held():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) // 1024

def allocate():
    before = held()
    blocks = [torch.ones(40 * 2**20 // 4) for _ in range(3)]
    del blocks
    return held() - before

with default_allocator():
    allocate()
    returned = allocate()
done = keep_freed_memory()
kept = allocate()
for _ in range(5):
    allocate()  # until holes of the right size are there
print(done, returned, kept, allocate())
"""
GLIBC_ON_LINUX = sys.platform == "linux" and "CS_GNU_LIBC_VERSION" in os.confstr_names


def measured(**variables):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**environment, **variables}, check=True, capture_output=True, text=True
    )
    made, *megabytes = done.stdout.split()
    return made == "True", *map(int, megabytes)


@pytest.mark.skipif(not GLIBC_ON_LINUX, reason="of glibc")
def test_freed_memory_is_kept_and_used_again():
    done, returned, kept, again = measured()
    assert done and returned < 20 and kept > 100 and again < 20


IN_THREADS = """
import resource, threading
import torch
from pe_spatial.common.allocator import keep_freed_memory

keep_freed_memory()

def allocate():
    blocks = [torch.ones(20 * 2**20 // 4) for _ in range(4)]

def faults(run):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def in_a_thread():
    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()

first = faults(allocate)
for _ in range(5):
    allocate()
print(first, faults(in_a_thread))
"""


@pytest.mark.skipif(not GLIBC_ON_LINUX, reason="of glibc")
def test_threads_use_what_others_have_freed():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", IN_THREADS], env=environment, check=True, capture_output=True, text=True
    )
    first, later = map(int, done.stdout.split())
    assert later < first / 4


@pytest.mark.skipif(not GLIBC_ON_LINUX, reason="of glibc")
def test_a_users_choice_stands():
    done, _, kept, _ = measured(MALLOC_MMAP_THRESHOLD_="131072")
    assert not done and kept < 20
