"""Threads beside a model: each computes alone, and the thread counts of all others stay."""

import threading

import pytest
import torch

from pe_spatial.common.threads import side_threads


@pytest.fixture
def two_threads():
    known = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(known)


def counted(found):
    torch.ones(2) + 1  # PyTorch looks at its setting with the first operation of a thread
    found.append(torch.get_num_threads())


def test_they_compute_on_one_core_each_and_others_do_not(two_threads):
    with side_threads(3, "reader") as pool:
        barrier = threading.Barrier(3)

        def look(_):
            barrier.wait()  # so that each of the three answers
            return torch.get_num_threads(), threading.current_thread().name

        answers = list(pool.map(look, range(3)))
        assert [count for count, _ in answers] == [1, 1, 1]
        assert len({name for _, name in answers}) == 3 and all(name.startswith("reader") for _, name in answers)
        assert torch.get_num_threads() == 2
        later: list[int] = []
        thread = threading.Thread(target=counted, args=(later,))
        thread.start()
        thread.join()
        assert later == [2]
    assert torch.get_num_threads() == 2


def test_a_system_without_threads_is_an_error_and_no_wait(monkeypatch):
    start, calls = threading.Thread.start, []

    def refuse(self):
        calls.append(self)
        if len(calls) == 2:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        side_threads(3)
    calls[0].join(10)
    assert not calls[0].is_alive()
