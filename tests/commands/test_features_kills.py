"""pe-spatial features, killed at any moment: nothing finished is done again, and the files are those of a whole run."""

import random
import shutil
import signal
from functools import partial

import pytest
from feature_scenes import child
from kills import KILLS, kill_at_random, leftovers, results, seconds_of, start_process, status_of
from small_checkpoints import save_input

SIGNALS = {"safetensors": signal.SIGTERM, "tar": signal.SIGKILL, "zarr": signal.SIGKILL}
OPTIONS = ("--layers", "0,2", "--batch-size", "2", "--tar-pictures", "3")


def finish(*arguments, **options):
    return status_of(start_process(child, *arguments, **options))


@pytest.fixture(scope="module", params=SIGNALS)
def kind(request):
    if request.param == "zarr":
        pytest.importorskip("zarr")
    return ("--format", request.param, *OPTIONS)


@pytest.fixture(scope="module")
def place(tmp_path_factory, kind):
    """A folder with an input, and the results `whole` of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("features")
    save_input(folder / "input", pictures=9)
    assert finish(folder / "input", folder / "whole", *kind) == 0
    return folder


@pytest.mark.slow
def test_kills_at_random_moments(kind, place, tmp_path):
    number = SIGNALS[kind[1]]
    random.seed(number)
    whole, kills, log = results(place / "whole"), 0, tmp_path / "log"
    seconds = seconds_of(finish, place / "input", tmp_path / "measured", *kind)
    while kills < KILLS:
        output = tmp_path / f"out{kills}"
        begin = partial(start_process, child, place / "input", output, *kind, log=log)
        kills += kill_at_random(begin, output, log, number, seconds)
        assert results(output) == whole and not leftovers(output)
        shutil.rmtree(output)


@pytest.mark.parametrize("order", [(3, 1, 2), None])
def test_shards_give_what_one_run_gives(kind, place, order, tmp_path):
    """One after the other in any order, and all at once; one process then finds nothing to do."""
    arguments = (place / "input", tmp_path / "out", *kind)
    if order is not None:
        assert [finish(*arguments, "--shard", f"{number}/3") for number in order] == [0, 0, 0]
    else:
        processes = [start_process(child, *arguments, "--shard", f"{number}/3") for number in (1, 2, 3)]
        assert [status_of(process) for process in processes] == [0, 0, 0]
    assert results(tmp_path / "out") == results(place / "whole")
    log = tmp_path / "log"
    assert finish(*arguments, log=log) == 0 and not log.exists()
