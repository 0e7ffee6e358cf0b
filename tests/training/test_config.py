"""Configs: found by name, read without running code, overridden and checked, every complaint with its origin."""

import os
from pathlib import Path

import pytest
import toy_task
from mmengine.config import Config
from mmengine.fileio.handlers import YamlHandler, file_handlers
from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS
from torch import nn

from pe_spatial.common.errors import ConfigError
from pe_spatial.common.safe_yaml import parse, write
from pe_spatial.common.trust import trusting
from pe_spatial.training import config_files
from pe_spatial.training.config import drop_pretrained, dump_config, load_config
from pe_spatial.training.config_checks import signature_names
from pe_spatial.training.config_files import find_config, list_configs, read_config_file


@pytest.fixture
def toy(tmp_path):
    return toy_task.write_config(tmp_path, tmp_path / "images")


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if new.strip() in line)


def problem(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


# --- YAML -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "1E-4", "+1e-4", ".0001", "1e-04"])
def test_numbers_are_numbers(text):
    assert parse(text) == 1e-4


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e", "1e"), ("e5", "e5"), ("1.2.3", "1.2.3"), ("12", 12), ("-.inf", -float("inf")), ("1e4", 1e4), ("+", "+")],
)
def test_what_is_no_float_stays(text, value):
    assert parse(text) == value
    assert type(parse(text)) is type(value)


def test_mmengine_keeps_its_own_yaml_reader():
    for suffix in ("yaml", "yml"):
        assert type(file_handlers[suffix]) is YamlHandler


@pytest.mark.parametrize("text", ["1e-4", "12", "null", "[a", "a: b", "ü ‘quoted’", "$_x", "1_0", "yes"])
def test_text_stays_text(text):
    assert parse(write({"a": [text, (1, 1e-5)]})) == {"a": [text, [1, 1e-5]]}


def test_python_objects_and_python_bases_are_refused(toy, tmp_path):
    target = tmp_path / "executed"
    line = edit(toy, "val_cfg: {}", f"val_cfg: !!python/object/apply:os.system ['touch {target}']")
    assert f"{toy}:{line}: tag" in problem(toy)
    assert "python/object" in problem(toy)
    (tmp_path / "base.py").write_text(f"import os; os.system('touch {target}')")
    (tmp_path / "derived.yaml").write_text("_base_: [base.py]\n")
    assert "derived.yaml:1" in problem(tmp_path / "derived.yaml")
    assert not target.exists()


def test_a_key_given_twice_is_an_error_with_its_line(toy):
    toy.write_text(toy.read_text() + "val_cfg: {}\n")
    line = len(toy.read_text().splitlines())
    assert f"{toy}:{line}: val_cfg is defined twice" in problem(toy)


def test_a_dumped_config_loads_to_the_same(toy, tmp_path):
    config = load_config(toy, ["optim_wrapper.optimizer.lr=3e-7", "model.width=4"])
    dump_config(config, tmp_path / "dumped.yaml")
    again = load_config(tmp_path / "dumped.yaml")
    assert again.to_dict() == config.to_dict()
    assert again.optim_wrapper.optimizer.lr == 3e-7


# --- finding ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def roots(tmp_path, monkeypatch):
    """The roots `local` (of the working folder) and `installed`, both empty."""
    found = tmp_path / "local", tmp_path / "installed"
    for root in found:
        root.mkdir()
    monkeypatch.setattr(config_files, "CONFIG_ROOTS", found)
    return found


def put(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_bare_name_is_looked_up_below_configs(roots):
    root = roots[0]
    for folder in ("a", "b"):
        put(root / folder / "same.yaml")
    put(root / "a" / "only.yaml", "# What it is.\nx: 1\n")
    put(root / "_base_" / "part.yaml")
    assert find_config("only.yaml") == find_config("only") == root / "a" / "only.yaml"
    assert find_config("b/same.yaml") == root / "b" / "same.yaml"
    with pytest.raises(ConfigError, match=r"(?s)a/same.yaml.*b/same.yaml"):
        find_config("same.yaml")
    with pytest.raises(ConfigError, match="did you mean 'only.yaml'"):
        find_config("onyl.yaml")
    with pytest.raises(ConfigError, match="did you mean '_base_/part.yaml'"):
        find_config("_base_/prat.yaml")
    with pytest.raises(ConfigError, match=r"must be a YAML file"):
        find_config("only.py")
    assert list_configs() == {"a/only.yaml": "What it is.", "a/same.yaml": "", "b/same.yaml": ""}


def test_a_local_recipe_comes_before_the_installed_one_of_its_name(roots):
    local, installed = roots
    put(installed / "a" / "one.yaml", "# installed")
    put(installed / "a" / "two.yaml", "# installed")
    assert find_config("one.yaml") == installed / "a" / "one.yaml"
    put(local / "a" / "one.yaml", "# local")
    assert find_config("one.yaml") == find_config("a/one.yaml") == local / "a" / "one.yaml"
    assert list_configs() == {"a/one.yaml": "local", "a/two.yaml": "installed"}
    # the same file name at another place is another recipe
    put(local / "two.yaml")
    with pytest.raises(ConfigError, match=r"(?s)several configs.*local/two.yaml.*installed/a/two.yaml"):
        find_config("two.yaml")
    assert find_config("a/two.yaml") == installed / "a" / "two.yaml"


def test_the_checkout_is_one_root_although_it_is_both(roots, monkeypatch):
    put(roots[0] / "a" / "one.yaml")
    monkeypatch.setattr(config_files, "CONFIG_ROOTS", (roots[0], roots[0] / ".." / roots[0].name))
    assert find_config("one").samefile(roots[0] / "a" / "one.yaml")


def test_the_old_name_of_a_recipe_finds_it():
    assert find_config("tracking/baseline_colour_davis2017").name == "baseline_color_davis2017.yaml"


# --- bases ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "bases",
    ["pe_g_coco", "[_base_/runtime.yaml, _base_/models/mask_rcnn.yaml]", "../_base_/runtime.yaml", "configs/part.yaml"],
)
def test_a_file_in_a_foreign_folder_builds_on_installed_recipes(tmp_path, monkeypatch, bases):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "configs" / "part.yaml", "log_level: INFO")  # a folder of the user's that is called as ours
    put(tmp_path / "mine.yaml", f"_base_: {bases}\n_image_size: 512\nwork_dir: here\n")
    config = load_config("mine.yaml")
    assert config.work_dir == "here" and config.log_level == "INFO"


def test_a_base_beside_the_file_comes_first(roots, tmp_path):
    put(roots[1] / "part.yaml", "work_dir: installed")
    here = put(tmp_path / "mine" / "derived.yaml", "_base_: part.yaml")
    assert load_config(here).work_dir == "installed"
    put(tmp_path / "mine" / "part.yaml", "work_dir: beside")
    assert load_config(here).work_dir == "beside"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: 1\n_base_: runtme.yaml\n", r"derived.yaml:2: _base_ 'runtme.yaml'.*did you mean 'runtime.yaml'"),
        ("_base_:\n  - runtime.yaml\n  - other.py\n", r"derived.yaml:3: _base_ 'other.py'.*YAML"),
        ("_base_: derived.yaml\n", "builds on itself"),
        ("_base_: [runtime.yaml, other.yaml]\n", r"runtime.yaml:2 and .*other.yaml:1: two bases set log_level"),
        ("_base_: runtime.yaml\nlog_level: {a: 1}\n", r"runtime.yaml:2 and .*derived.yaml:2: log_level.*_delete_"),
        ("work_dir: '{{ fileDirname }}'\n", r"derived.yaml:1: \{\{fileDirname\}\} is not supported"),
        ("\nwork_dir: '{{$NO_SUCH_VARIABLE:}}'\n", "derived.yaml:2: the environment variable NO_SUCH_VARIABLE"),
        ("1: 2\n", "derived.yaml:1: a key must be a plain word"),
        ("? [a, b]\n: 2\n", "derived.yaml:1: a key must be a plain word"),
        ("a: &a {b: *a}\n", "contains itself"),
        ("- a\n", "must be a mapping"),
        ("a: [1\n", "not YAML"),
        ("filename: x\n", "filename is reserved"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, message):
    put(tmp_path / "runtime.yaml", "\nlog_level: INFO\n")
    put(tmp_path / "other.yaml", "log_level: DEBUG\n")
    put(tmp_path / "derived.yaml", text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "derived.yaml")


def test_bases_are_merged_section_by_section(tmp_path):
    put(tmp_path / "root.yaml", "env_cfg: {cudnn_benchmark: false}\n")
    put(tmp_path / "a.yaml", "_base_: root.yaml\nenv_cfg: {dist_cfg: {timeout: 1}}\nlaunch: &x [1]\n")
    put(tmp_path / "b.yaml", "_base_: root.yaml\nenv_cfg: {mp_cfg: {mp_start_method: fork, opencv_num_threads: 0}}\n")
    derived = put(tmp_path / "derived.yaml", "_base_: [a.yaml, b.yaml]\nenv_cfg: {mp_cfg: {_delete_: true, x: 1}}\n")
    settings, origins = read_config_file(derived)
    assert settings["env_cfg"] == {"cudnn_benchmark": False, "dist_cfg": {"timeout": 1}, "mp_cfg": {"x": 1}}
    assert settings["launch"] == [1]
    assert origins["env_cfg.dist_cfg.timeout"] == f"{tmp_path / 'a.yaml'}:2"
    # what is deleted or absent below leaves no marker behind
    fresh = put(tmp_path / "fresh.yaml", "_base_: root.yaml\nnew: {_delete_: true, deep: {_delete_: true, y: 2}}\n")
    assert read_config_file(fresh)[0]["new"] == {"deep": {"y": 2}}


def test_merging_is_mmengine_s(tmp_path):
    """Of files that hold none of our own extensions, mmengine makes the same."""
    put(tmp_path / "a.yaml", "model: {type: A, deep: {x: 1, y: [1, 2]}, other: {z: 3}}\nkept: {p: 0.5}\n")
    put(tmp_path / "b.yaml", "second: [{q: 1}, {r: 2}]\n")
    text = "_base_: [a.yaml, ./b.yaml]\nmodel: {deep: {y: [3], w: 4}, other: {_delete_: true, v: 5}}\nsecond: null\n"
    derived = put(tmp_path / "derived.yaml", text)
    assert Config(read_config_file(derived)[0]).to_dict() == Config.fromfile(derived).to_dict()


# --- checks -----------------------------------------------------------------------------------------------------------
def test_the_toy_config_passes_and_is_merged(toy):
    config = load_config(toy)
    assert config.default_hooks.checkpoint.type == "AtomicCheckpointHook"
    assert config.optim_wrapper.optimizer.lr == 1e-2
    assert "_pipeline" not in config


@pytest.mark.parametrize(
    ("old", "new", "where", "hint"),
    [
        ("train_cfg:", "trian_cfg:", "trian_cfg", "train_cfg"),
        ("max_iters: 12,", "max_itres: 12,", "train_cfg.max_itres", "max_iters"),
        ("type: ToyModel", "type: ToyModle", "model.type", "ToyModel"),
        ("  dropout: 0.2", "  dorpout: 0.2", "model.dorpout", "dropout"),
        ("weight_decay:", "weight_decy:", "optim_wrapper.optimizer.weight_decy", "weight_decay"),
        ("layer_decay:", "layer_deacy:", "optim_wrapper.paramwise_cfg.layer_deacy", "layer_decay"),
        ("p: 0.5", "prob: 0.5", "train_dataloader.dataset.pipeline.1.prob", "p"),
        ("v2.RandomHorizontalFlip", "v2.RandomHorizontalFilp", "train_dataloader.dataset.pipeline.1.type", "Flip"),
        ("type: LinearLR", "type: LinaerLR", "param_scheduler.0.type", "LinearLR"),
        ("type: ToyMetric", "type: ToyMetrics", "val_evaluator.type", "ToyMetric"),
        ("persistent_workers:", "persistant_workers:", "train_dataloader.persistant_workers", "persistent_workers"),
        ("logger: {interval", "logger: {intervall", "default_hooks.logger.intervall", "interval"),
        ("data_root:", "dataroot:", "train_dataloader.dataset.dataroot", "data_root"),
    ],
)
def test_misspellings_name_the_place_and_the_nearest(toy, old, new, where, hint):
    line = edit(toy, old, new)
    message = problem(toy)
    assert f"{where}: " in message
    assert hint in message
    # an anchor is used far from where it is written; everything else is blamed on its own line
    assert f"{toy}:{line}" in message or "pipeline" in where


def test_all_problems_are_listed_at_once(toy):
    assert len(problem(toy, "model.widht=3", "train_cfg.max_itres=3").splitlines()) == 2


def test_a_mistake_in_a_base_is_blamed_on_the_base(toy, tmp_path):
    (tmp_path / "derived.yaml").write_text("_base_: [toy.yaml]\nwork_dir: here\n")
    line = edit(toy, "  dropout: 0.2", "  dorpout: 0.2")
    assert problem(tmp_path / "derived.yaml").startswith(f"{tmp_path / 'toy.yaml'}:{line}: ")


def test_an_unknown_package_is_named(toy):
    edit(toy, "imports: [toy_task]", "imports: [toy_tsak]")
    assert "no module 'toy_tsak'" in problem(toy)


def test_a_package_without_its_third_parties_says_what_to_install(toy, tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import parts_that_nobody_has.models\n")
    (tmp_path / "broken.py").write_text("import pe_spatial.no_such_part\n")
    monkeypatch.syspath_prepend(tmp_path)
    edit(toy, "imports: [toy_task]", "imports: [toy_task, needy]")
    with trusting(["needy"]):
        assert "needy needs the package 'parts_that_nobody_has'" in problem(toy)
        assert "pip install 'pe_spatial[needy]'" in problem(toy)
    edit(toy, "imports: [toy_task, needy]", "imports: [toy_task, broken]")
    with pytest.raises(ModuleNotFoundError, match="no_such_part"):
        load_config(toy, trust=["broken"])


def test_a_type_of_a_package_that_cannot_be_imported_says_so(toy):
    assert "there is no module 'no_such_package'" in problem(toy, "model.type=no_such_package.Model")


# --- overrides --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("optim_wrapper.optimizer.lr=1e-5", lambda c: c.optim_wrapper.optimizer.lr, 1e-5),
        ("param_scheduler.1.begin=2", lambda c: c.param_scheduler[1].begin, 2),
        ("model.data_preprocessor.mean=[1, 2, 3]", lambda c: c.model.data_preprocessor.mean, [1, 2, 3]),
        ("model.width=16", lambda c: c.model.width, 16),  # an option that the file leaves at its default
        ("load_from=a=b.pth", lambda c: c.load_from, "a=b.pth"),
        ("val_cfg.fp16=true", lambda c: c.val_cfg.fp16, True),
        ("param_scheduler=null", lambda c: c.param_scheduler, None),
        ("default_hooks.report=null", lambda c: "report" in c.default_hooks, False),
    ],
)
def test_overrides(toy, override, read, value):
    assert read(load_config(toy, [override])) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim_wrapper.optimzer.lr=1", "there is no optim_wrapper.optimzer; did you mean 'optimizer'"),
        ("model.widht=3", "did you mean 'width'"),
        ("trian_cfg=3", "there is no trian_cfg; did you mean 'train_cfg'"),
        ("param_scheduler.2.begin=1", "list of 2 items"),
        ("model.dropout.x=1", "inside a plain value"),
        ("model", "dotted.key=value"),
        ("model=3", "model is a section"),
        ("model.dropout=[1", "not YAML"),
        ("model.dropout=!!python/name:os.system x", "not YAML"),
    ],
)
def test_wrong_overrides_are_explained(toy, override, message):
    complaint = problem(toy, override)
    assert message in complaint
    assert f"override '{override}'" in complaint


def test_no_workers_need_no_persistent_ones(toy):
    loader = load_config(toy, ["train_dataloader.num_workers=0"]).train_dataloader
    assert "persistent_workers" not in loader
    assert load_config(toy, ["train_dataloader.num_workers=2"]).train_dataloader.persistent_workers is True


# --- signatures -------------------------------------------------------------------------------------------------------
class Closed:
    def __init__(self, a, b=1):
        pass


class Passing(Closed):
    def __init__(self, c, **kwargs):
        super().__init__(**kwargs)


class Opaque:
    def __init__(self, a, **options):
        pass


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()


class Plain(nn.Module):
    pass


def test_signatures_are_followed_up_the_classes():
    assert signature_names(Closed) == {"a", "b"}
    assert signature_names(Passing) == {"a", "b", "c"}
    assert signature_names(Layer) == {"width"}
    assert signature_names(Plain) == frozenset()
    assert signature_names(Opaque) is None
    assert signature_names(EMAHook) is None  # hands its keywords to another class
    assert signature_names(lambda a, *, b: None) == {"a", "b"}


def test_every_hook_of_the_engine_is_checked():
    ours = [
        hook
        for hook in HOOKS.module_dict.values()
        if hook.__module__.startswith(("pe_spatial.training", "pe_spatial.doctor"))
    ]
    assert len(ours) >= 7
    assert all(signature_names(hook) is not None for hook in ours)


# --- shipped configs --------------------------------------------------------------------------------------------------
ROOT = Path(__file__).resolve().parents[2] / "configs" / "_base_"


@pytest.mark.parametrize("schedule", sorted((ROOT / "schedules").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_schedules_and_runtime_hold(toy, schedule, tmp_path):
    derived = tmp_path / "derived.yaml"
    derived.write_text(f"_base_: [{ROOT / 'runtime.yaml'}, {schedule}]\n")
    config = load_config(derived)
    assert config.param_scheduler
    for scheduler in config.param_scheduler:
        changes = [*scheduler.get("milestones", []), scheduler.get("begin", 0), scheduler.get("end", 0)]
        assert max(changes) < config.train_cfg.max_iters, scheduler


def test_pretrained_weights_are_forgotten_everywhere():
    model = {"weights": "a", "neck": [{"backbone": {"weights": "b", "depth": 2}}]}
    drop_pretrained(model)
    assert model == {"weights": None, "neck": [{"backbone": {"weights": None, "depth": 2}}]}


def test_a_variable_stands_for_its_last_value_wherever_it_is_named(toy, tmp_path):
    edit(toy, "  dropout: 0.2", "  dropout: $_share")
    assert f"{toy}:" in problem(toy) and "model.dropout: there is no variable _share" in problem(toy)
    toy.write_text(toy.read_text() + "_share: 0.3\n")
    assert load_config(toy).model.dropout == 0.3
    derived = tmp_path / "derived.yaml"
    derived.write_text(f"_base_: {toy.name}\n_share: 0.4\n")
    assert load_config(derived).model.dropout == 0.4
    config = load_config(derived, ["_share=0.5"])
    assert config.model.dropout == 0.5 and "_share" not in config


def test_environment_variables_are_filled_in(toy, monkeypatch):
    edit(toy, "  dropout: 0.2", "  dropout: {{$TOY_DROPOUT:0.3}}")
    assert load_config(toy).model.dropout == 0.3
    monkeypatch.setitem(os.environ, "TOY_DROPOUT", "0.4")
    assert load_config(toy).model.dropout == 0.4


def test_an_environment_variable_may_have_any_default(toy, monkeypatch):
    """A default with characters that mean something in patterns, as `*.tar`."""
    edit(toy, "val_cfg: {}", "work_dir: '{{$TOY_FILES:data/(a)/*.tar}}/x'")
    assert load_config(toy).work_dir == "data/(a)/*.tar/x"
    monkeypatch.setitem(os.environ, "TOY_FILES", r"C:\1")
    assert load_config(toy).work_dir == r"C:\1/x"


def test_a_variable_may_be_shifted(toy):
    edit(toy, "  dropout: 0.2", "  width: $_size-4")
    toy.write_text(toy.read_text() + "_size: 12\n")
    assert load_config(toy).model.width == 8
    assert load_config(toy, ["_size=36"]).model.width == 32
    assert "model.width: $_size-4 needs a number, but _size is 'x'" in problem(toy, "_size=x")
