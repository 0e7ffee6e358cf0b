"""What tests of several folders share, and which tests are slow."""

import gc
import resource
import shutil
import signal
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from pe_spatial.common.trust import trusting

SLOW = Path(__file__).with_name("slow.txt")  # tests whose cases take more than a second together; see `make slow-list`
_seconds = Counter()


def pytest_addoption(parser):
    parser.addoption("--list-slow", action="store_true", help=f"write the tests of more than a second to {SLOW.name}")


def pytest_collection_modifyitems(items):
    slow = set(SLOW.read_text().split())
    for item in items:
        if item.nodeid.partition("[")[0] in slow:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    gc.freeze()
    if "mmengine.dataset" in sys.modules:  # it collects garbage for every dataset, among all modules of all tests
        sys.modules["mmengine.dataset.base_dataset"].gc = SimpleNamespace(collect=lambda: None)


def pytest_runtest_setup():
    """mmengine's last logger goes on writing into the folder of its run, which pytest may have removed since."""
    module = sys.modules.get("mmengine.logging.logger")
    for logger in module.MMLogger._instance_dict.values() if module else ():
        for handler in list(logger.handlers):
            if not Path(getattr(handler, "baseFilename", __file__)).parent.exists():
                logger.removeHandler(handler)


def pytest_runtest_logreport(report):
    _seconds[report.nodeid.partition("[")[0]] += report.duration  # with what it sets up


def pytest_sessionfinish(session):
    if session.config.getoption("--list-slow") and not hasattr(session.config, "workerinput"):
        left_out = SLOW.read_text().split() if session.config.getoption("-m") else []  # in the second run
        slow = {*left_out, *(name for name, seconds in _seconds.items() if seconds > 1)}
        SLOW.write_text("".join(f"{name}\n" for name in sorted(slow)))


@pytest.fixture(autouse=True, scope="session")
def trusted_packages():
    """What the tests trust in their own process; `tests/security` takes it away again."""
    with trusting(["toy_task"]):
        yield


@pytest.fixture(autouse=True, scope="session")
def blank_charts():
    """Charts as white pictures of their size: matplotlib lays one out for half a second, half of a training of a test.

    `drawn_charts` draws them; processes that tests start do so too.
    """
    from PIL import Image

    from pe_spatial.visualization import charts

    def save_blank(path, figure, dpi=charts._DPI):
        blank = Image.new("RGB", tuple(int(dpi * side) for side in figure.get_size_inches()), "white")
        path.parent.mkdir(parents=True, exist_ok=True)
        charts.write_atomically(path, lambda file: blank.save(file, "PNG"))

    drawn, charts.save_figure = charts.save_figure, save_blank
    yield drawn
    charts.save_figure = drawn


@pytest.fixture
def drawn_charts(blank_charts, monkeypatch):
    """The charts of a test are those that a user gets."""
    monkeypatch.setattr("pe_spatial.visualization.charts.save_figure", blank_charts)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(path of the config, work folder)."""
    import toy_task  # here, for the process that hands out the tests needs none of it

    from pe_spatial.training.launch import train

    folder = tmp_path_factory.mktemp("finished")
    images = toy_task.write_images(folder / "images")
    pictures = "{type: PictureHook, number: 2, threshold: 0.1}"
    path = toy_task.write_config(folder, images, pictures=pictures, max_iters=6, val_interval=3, save=2)
    train(toy_task.load(path, folder / "run"))
    return path, folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run (checkpoints of 4 and 6 iterations, the best of 3), to spoil."""
    shutil.copytree(finished[1], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def small_files():
    """A block in which no file may grow beyond a size: a write fails half way, as on a full disk or at a quota."""

    @contextmanager
    def limit(size):
        before, bytecode = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        sys.dont_write_bytecode = True  # Python does not notice that such a file is cut off, and reads it ever after
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            sys.dont_write_bytecode = bytecode
            signal.signal(signal.SIGXFSZ, handler)

    return limit
