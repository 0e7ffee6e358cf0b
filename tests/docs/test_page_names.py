"""What README and the pages name exists: commands, options, configs, types, modules and files."""

import ast
import re
from functools import cache

import pytest
from doc_pages import DOCUMENTS, ROOT, blocks, codes, name_of, read

from pe_spatial.commands.shell import COMMANDS, module_of, parser_of

TASKS = ("detection", "segmentation", "depth", "tracking")
# options of other programs that the documents name
OTHERS = {
    "torchrun": "--nnodes --nproc-per-node --standalone",
    "srun": "--ntasks-per-node --gpus-per-node --array",
    "pip": "--no-index --find-links --no-build-isolation --no-deps --index-url --extra-index-url --wheel-dir",
    "curl": "--data-binary",
    "uv and pipx": "--python --with",
    "docker": "--rm --gpus --build-arg --user --ipc --volume",
    "pytest": "--dist --durations",
    "Detectron2": "--config-file --num-gpus",
    "mkdocs and the linters": "--strict --fix --check",
}
PLACEHOLDERS = re.compile(
    r"(^|/)(mine|my_\w+|data|config|NAME|CONFIG|base|classes|model|recipe|custom|other|first|second|old|new|resolved|dataset|\w*[A-Z]{3}\w*)"
    r"\.ya?ml$"
)


@cache
def options():
    """Every option of every command, tool and study."""
    found = {"--help", "--version"}
    for name in COMMANDS:
        module = module_of(name)
        for subcommand in getattr(module, "SUBCOMMANDS", {}) if not hasattr(module, "add_arguments") else [None]:
            found |= {*parser_of(f"pe-spatial {name}", module, subcommand)._option_string_actions}
    for path in (*(ROOT / "tools").rglob("*.py"), *(ROOT / "examples").rglob("*.py"), ROOT / "tests/conftest.py"):
        found |= set(re.findall(r"\"(--[\w-]+)\"", read(path)))
    return found | {name for names in OTHERS.values() for name in names.split()}


def shell_texts(text):
    """Code in running text, and blocks of shell."""
    yield from codes(text)
    yield from (code for language, _, code in blocks(text) if language in ("", "bash", "sh", "shell", "console"))


# --- finding ----------------------------------------------------------------------------------------------------------
def missing_commands(text):
    named = [name for code in shell_texts(text) for name in re.findall(r"^\s*pe-spatial +([\w-]+)", code, re.MULTILINE)]
    return [name for name in named if name not in {*COMMANDS, "NAME", "--help", "--version"}]


def missing_options(text):
    named = [name for code in shell_texts(text) for name in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)]
    return [name for name in named if name not in options()]


@cache
def configs():
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.y*ml")]
    files += [path.relative_to(ROOT).as_posix() for path in (ROOT / ".github").rglob("*.y*ml")]
    return [*files, "mkdocs.yml", ".pre-commit-config.yaml"]


def spread(name):
    """`a_{l,b}.yaml` as two names."""
    found = re.search(r"\{([^}]*)\}", name)
    if found is None:
        return [name]
    return [part for choice in found[1].split(",") for part in spread(name.replace(found[0], choice, 1))]


def missing_configs(text):
    named = [name for code in shell_texts(text) for name in re.findall(r"[\w./*{},-]+\.ya?ml\b", code)]
    wrong = []
    for name in [part for several in named for part in spread(several)]:
        pattern = re.escape(re.sub(r"^(\.{1,2}/)+", "", name)).replace(r"\*", ".*")
        known = any(re.search(rf"(^|/){pattern}$", path) for path in configs())
        if not known and not PLACEHOLDERS.search(name):
            wrong.append(name)
    return wrong


@cache
def classes():
    """Names of classes and functions of the packages, and of those whose names configs may use."""
    import mmengine.hooks
    import mmengine.optim
    import mmengine.visualization
    import torch
    from torchvision.transforms import v2

    found = set()
    for folder in ("pe_spatial", *TASKS):
        for path in (ROOT / folder).rglob("*.py"):
            found |= {node.name for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    for module in (torch.optim, mmengine.hooks, mmengine.optim, mmengine.visualization, mmengine.dataset, v2):
        found |= {*dir(module)}
    return found


def missing_types(text):
    everything = [*codes(text), *(code for _, _, code in blocks(text))]
    named = [name for code in everything for name in re.findall(r"\btype: ['\"]?([A-Z]\w+)", code)]
    return [name for name in named if name not in classes() and name not in ("TYPE", "NAME")]


@cache
def tree(path):
    return ast.parse(read(path))


def module_file(parts):
    """The file of the longest module that a dotted name begins with, and the rest of the name."""
    folder, rest = ROOT / "pe_spatial", list(parts)
    if rest and rest[0] in (*TASKS, "configs"):
        folder = ROOT / rest.pop(0)
    while rest:
        if (folder / rest[0]).is_dir():
            folder = folder / rest.pop(0)
        elif (folder / f"{rest[0]}.py").is_file():
            return folder / f"{rest.pop(0)}.py", rest
        else:
            break
    return folder / "__init__.py", rest


def names_in(nodes):
    """What the statements of a module or class define."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.If | ast.Try | ast.With):
            found |= names_in(node.body)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name: None for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: None for target in targets if isinstance(target, ast.Name)}
    return found


def exists(dotted):
    """Whether a name that begins with `pe_spatial.` is a module or something in one."""
    path, rest = module_file(dotted.split(".")[1:])
    if not rest or not path.is_file():
        return not rest
    found = names_in(tree(path).body)
    if rest[0] not in found:
        return False
    node = found[rest[0]]
    inside = isinstance(node, ast.ClassDef) and len(rest) == 2
    if not inside:
        return node is None or len(rest) == 1
    assigned = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return rest[1] in names_in(node.body) or rest[1] in assigned or bool(node.bases)


def missing_names(text):
    named = re.findall(r"(?<![\w./-])pe_spatial(?:\.[A-Za-z_]\w*)+", text)
    files = (".json", ".py", ".md", ".whl", ".git", ".zip", ".yaml")
    return [name for name in named if not name.endswith(files) and not exists(name)]


def missing_files(text):
    named = [
        name
        for code in shell_texts(text)
        for name in re.findall(
            r"(?<![\w/.~-])((?:tools|tests|docs|configs|examples|pe_spatial|\.github)/[\w./-]+\w)(?![\w*{<])", code
        )
    ]
    return [name for name in named if not (ROOT / name).exists() and not (ROOT / f"{name}.yaml").exists()]


# the names of earlier versions stand in the history
HISTORY = {"CHANGELOG.md": [missing_names]}
FINDERS = [missing_commands, missing_options, missing_configs, missing_types, missing_names, missing_files]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_what_a_document_names_exists(path):
    finders = [find for find in FINDERS if find not in HISTORY.get(path.name, [])]
    assert {find.__name__: found for find in finders if (found := find(read(path)))} == {}


def test_what_does_not_exist_is_found():
    text = """`pe-spatial fly`, `pe-spatial train --wings`, `pe_g_cocoa.yaml`, `{type: PEBackBone}`, `tools/fly.py`
    `pe_spatial.train`, `pe_spatial.Predictor.task`, `pe_spatial.detection.nms.fly`, `pe_spatial.inference.tasks.Task`
    """
    assert missing_commands(text) == ["fly"]
    assert missing_options(text) == ["--wings"]
    assert missing_configs(text) == ["pe_g_cocoa.yaml"]
    assert missing_types(text) == ["PEBackBone"]
    assert missing_names(text) == ["pe_spatial.detection.nms.fly"]
    assert missing_files(text) == ["tools/fly.py"]
    assert spread("a_{l,b}_{c}.yaml") == ["a_l_c.yaml", "a_b_c.yaml"]
