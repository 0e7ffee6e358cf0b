"""The shell around all commands: what it costs, what it calls things, and which exit status a mistake has."""

import argparse
import errno
import json
import re
import resource
import signal
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest

from pe_spatial.commands import shell
from pe_spatial.commands.options import SHARED, CommandParser, add_shared, names, number_in
from pe_spatial.commands.shell import COMMANDS, execute, main, parse, run_command
from pe_spatial.common.errors import DivergedError, UserError
from pe_spatial.training.config import load_config

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "mmengine", "numpy", "rich", "PIL", "cv2", "yaml")
SECONDS = 0.7  # of CPU that an answer may take


def answer(*arguments):
    """(exit status, output and errors, heavy modules, seconds of CPU) of a process that runs the shell."""
    code = (
        "import sys\nfrom pe_spatial.commands.shell import main\n"
        "try:\n    status = main()\nexcept SystemExit as end:\n    status = end.code\n"
        f"print('heavy', *(name for name in {HEAVY} if name in sys.modules))\nsys.exit(status)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    text, _, heavy = done.stdout.rpartition("heavy")
    return done.returncode, text + done.stderr, heavy.split(), seconds


@pytest.mark.parametrize("name", ["", *COMMANDS, "benchmark tracking", "configs show"])
def test_help_and_a_mistyped_option_answer_at_once(name):
    status, text, heavy, seconds = answer(*name.split(), "--help")
    assert (status, heavy) == (0, []), text
    assert text.startswith(f"usage: pe-spatial {name}".rstrip())
    assert seconds < SECONDS
    status, text, heavy, seconds = answer(*name.split(), "--hlep")
    assert (status, heavy) == (2, []), text
    assert "--hlep" in text and "Traceback" not in text
    assert len(text.splitlines()) == 1
    assert seconds < SECONDS


def test_names_that_are_nearly_right_are_suggested(capsys):
    for arguments, message in (
        (["trian"], "did you mean 'train'?"),
        (["benchmark", "traking"], "did you mean 'tracking'?"),
        (["score", "--inptu", "x"], "did you mean '--input'?"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert message in capsys.readouterr().err


def test_every_tool_is_a_door_to_a_command():
    for path in (ROOT / "tools").glob("*.py"):
        name = re.search(r'run_command\("([\w-]+)"\)', path.read_text())
        assert name and name[1] in COMMANDS, path
        assert len(path.read_text().splitlines()) < 10


# --- options ----------------------------------------------------------------------------------------------------------
def command(run=lambda options: 0, **more):
    """A module that is a command."""

    def add_arguments(parser):
        add_shared(parser, "--config", "--output", "--limit", "overrides", required=["--config"])
        parser.add_argument("--layers", default="all")
        parser.add_old_spellings({"--work-dir": "--output"}, ["--config"])

    module = types.ModuleType("invented", "Help.")
    module.__dict__.update(add_arguments=add_arguments, run=run, **more)
    return module


def parsed(*arguments):
    return parse("invented", command(), list(arguments))[0]


def test_the_present_and_the_old_spelling_mean_the_same(capsys):
    present = parsed("--config", "a.yaml", "--output", "out", "model.x=1", "--limit", "3")
    assert capsys.readouterr().err == ""
    assert parsed("a.yaml", "model.x=1", "--work-dir", "out", "--limit", "3") == present
    assert capsys.readouterr().err.splitlines() == ["--work-dir is now --output", "a.yaml is now --config a.yaml"]
    assert parsed("--work-dir=out", "--config=a.yaml", "--limit=3", "model.x=1") == present
    assert (present.config, present.output, present.limit) == ("a.yaml", Path("out"), 3)
    assert present.overrides == ["model.x=1"]


def test_old_spellings_are_not_in_the_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        parsed("--help")
    text = capsys.readouterr().out
    assert "--output" in text and "--work-dir" not in text and "--traceback" in text


def test_a_list_that_begins_with_a_negative_number_is_a_value():
    assert parsed("--config", "a", "--layers", "-3,-1").layers == "-3,-1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.x=1"], "arguments are required: --config"),
        (["--config", "a", "b"], "unexpected argument 'b'"),
        (["--config", "a", "--limit", "0"], "0 is too small; give 1 or more"),
        (["--config", "a", "--limit", "many"], "'many' is not an integer"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        parsed(*arguments)
    text = capsys.readouterr().err
    assert message in text and len(text.splitlines()) == 1


def test_values_keep_their_limits():
    assert number_in(0, 1)("0.5") == 0.5
    for text in ("1.5", "-1", "nan", "half"):
        with pytest.raises(argparse.ArgumentTypeError):
            number_in(0, 1)(text)
    assert names(["b", "a"])("a,b") == ["b", "a"]
    with pytest.raises(argparse.ArgumentTypeError, match="'c' is not one of b, a"):
        names(["b", "a"])("a,c")


def test_the_options_of_all_commands_are_those_of_the_vocabulary():
    """Options are spelled alike and explained, and none has a name of an earlier version."""
    for name in COMMANDS:
        module = shell.import_module(f"pe_spatial.commands.{name.replace('-', '_').replace(' ', '_')}")
        functions = getattr(module, "SUBCOMMANDS", {"": getattr(module, "add_arguments", None)})
        for add in filter(None, functions.values()):
            parser = CommandParser(name, "")
            add(parser)
            options = {option for action in parser._actions for option in action.option_strings}
            assert all(re.fullmatch(r"-h|--[a-z0-9]+(-[a-z0-9]+)*", option) for option in options)
            assert all(action.help for action in parser._actions), name
            assert "--work-dir" not in options and "--batch" not in options
    assert all(entry["help"] for entry in SHARED.values())


# --- exit status ------------------------------------------------------------------------------------------------------
def failing(error):
    def run(options):
        raise error

    return run


def status(error, resumes="", **options):
    return execute(failing(error), argparse.Namespace(traceback=False, **options), resumes)


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (UserError("a.yaml: no such key; remove it"), 2, "error: a.yaml: no such key; remove it"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.jpg"), 2, "a.jpg: No such file or directory"),
        (OSError(errno.ENOSPC, "No space left on device", "out/a.png"), 2, "free some space"),
        (DivergedError("not finite in iteration 2"), 3, "error: not finite in iteration 2"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to continue"),
        (
            UserError("Caught UserError in worker 0.\nOriginal Traceback (most recent call last):\n  x\nb.png: broken"),
            2,
            "error: b.png: broken",
        ),
    ],
)
def test_mistakes_are_one_line_with_their_exit_status(capsys, error, expected, message):
    assert status(error, "run the same command again to continue") == expected
    text = capsys.readouterr().err
    assert message in text and len(text.strip().splitlines()) == 1


@pytest.mark.parametrize("kind", [ValueError, KeyError, RuntimeError, ModuleNotFoundError, AssertionError])
def test_everything_else_is_a_bug_with_its_traceback(kind):
    with pytest.raises(kind) as raised:
        status(kind("a bug"))
    if sys.version_info >= (3, 11):
        assert "report" in raised.value.__notes__[0]


def test_the_traceback_of_a_mistake_is_shown_on_request(capsys):
    assert execute(failing(UserError("wrong")), argparse.Namespace(traceback=True)) == 2
    text = capsys.readouterr().err
    assert "Traceback" in text and text.endswith("error: wrong\n")


def test_warnings_have_one_form_and_the_old_one_after(capsys):
    before = warnings.showwarning

    def run(options):
        warnings.warn("a strange file", UserWarning, stacklevel=1)
        return 0

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert execute(run, argparse.Namespace(traceback=False)) == 0
    assert capsys.readouterr().err == "warning: a strange file\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_interrupt(number):
    code = (
        "import signal, sys, time\nfrom pe_spatial.commands.shell import execute\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
        "def run(options):\n    print('begun', flush=True)\n    time.sleep(60)\n    return 0\n"
        "sys.exit(execute(run, None, 'run the same command again to continue'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, text = process.communicate(timeout=30)
    assert process.returncode == 130
    assert text.strip() == "interrupted; run the same command again to continue"


def test_the_handler_of_signals_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    assert execute(lambda options: 0, argparse.Namespace(traceback=False)) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from pe_spatial.commands.shell import execute\n"
    code += "def run(options):\n    for number in range(10**5):\n        print(number)\n    return 0\n"
    code += "sys.exit(execute(run, None))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 128 + signal.SIGPIPE


# --- env and configs --------------------------------------------------------------------------------------------------
def test_env_names_versions_extras_and_weights(tmp_path, monkeypatch, capsys):
    (tmp_path / "PE-Spatial-T16-512.pt").write_bytes(b"")
    monkeypatch.setenv("PE_SPATIAL_WEIGHTS", str(tmp_path))
    assert run_command("env", ["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert sys.modules["torch"].__version__.startswith(report["packages"]["torch"])
    assert report["weights"]["PE-Spatial-T16-512"] == str(tmp_path / "PE-Spatial-T16-512.pt")
    assert {"segmentation", "sam", "detectron2"} <= report["extras"].keys()
    assert "pip install 'pe_spatial[detectron2]'" in report["extras"]["detectron2"] or "detectron2" in sys.modules
    assert run_command("env", []) == 0
    assert "PE-Spatial-T16-512" in capsys.readouterr().out


def test_configs_are_listed_shown_and_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # the installed recipes are found from anywhere
    assert run_command("configs", ["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("pe_g_coco.yaml ") and "Mask R-CNN" in line for line in lines)
    assert not any("_base_" in line for line in lines)
    assert run_command("configs", ["list", "no such word"]) == 1
    assert run_command("configs", ["show", "pe_g_coco", "model.backbone.window=16"]) == 0
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out)
    expected = load_config("pe_g_coco", ["model.backbone.window=16"])
    assert load_config(shown).to_dict() == expected.to_dict()
    for name in ("pe_g_coco", "linear_pe_spatial_s16_ade20k_40k"):
        assert run_command("configs", ["copy", name, "mine.yaml", "--force"]) == 0
        assert load_config("mine.yaml").to_dict() == load_config(name).to_dict()
        assert "#" in Path("mine.yaml").read_text()  # comments are kept
    before = Path("mine.yaml").read_text()
    assert run_command("configs", ["copy", "pe_g_coco", "mine.yaml"]) == 2
    assert "--force" in capsys.readouterr().err
    assert Path("mine.yaml").read_text() == before


def test_a_config_whose_bases_are_not_found_from_the_copy_is_refused(tmp_path, capsys):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/base_of_mine.yaml").write_text("work_dir: a\n")
    (tmp_path / "own/mine.yaml").write_text("_base_: base_of_mine.yaml\n")
    assert run_command("configs", ["copy", str(tmp_path / "own/mine.yaml"), str(tmp_path / "copy.yaml")]) == 2
    assert "base_of_mine" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]
