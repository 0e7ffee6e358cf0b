"""Threads that read and write beside a model, and leave the cores to it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def side_threads(number: int, name: str = "") -> ThreadPoolExecutor:
    """A pool of threads that compute on one core each; all of them are started.

    OpenMP gives every thread that computes a team of its own. Once there are more members of teams than cores, no team
    waits actively any more, and every operation of the model begins with waking its team.

    Args:
        number: Of the threads.
        name: How their names begin.

    Raises:
        RuntimeError: The system starts no more threads.
    """
    team = torch.get_num_threads()
    started = threading.Barrier(number + 1)

    def begin() -> None:
        torch.get_num_threads()  # or PyTorch would take the common number at this thread's first operation
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(number, name, begin)
    try:
        for _ in range(number):  # none is idle before the barrier, so that each starts a thread
            pool.submit(int)
    except BaseException:
        started.abort()
        raise
    started.wait()
    torch.set_num_threads(team)  # PyTorch gives threads that start later what was set last, by whichever thread
    return pool
