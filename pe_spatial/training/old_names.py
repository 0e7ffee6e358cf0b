"""Names that version 0.1 used in configs and checkpoints, and what replaces them."""

from typing import Any

from pe_spatial.common.trees import sections

# the packages of the tasks had no name in front; also a module or a dotted `type` inside them
MODULES = {
    **{task: f"pe_spatial.{task}" for task in ("detection", "segmentation", "depth", "tracking")},
    "pe_spatial.engine": "pe_spatial.training",
}
RECIPES = {"baseline_colour_davis2017": "baseline_color_davis2017"}  # file names without suffix
TYPES = {"RawColour": "RawColor"}
OPTIONS = {"VideoTracker": {"normalisation": "normalization"}}  # of the (new) type

# hooks that stood in the list `custom_hooks`, which an experiment replaces whole -> their names in `default_hooks`
HOOKS = {
    "BindDatasetHook": "bind",
    "DetaStartHook": "start",
    "MaskAnnealingHook": "annealing",
    "StudentExportHook": "export",
    "StudentTrialHook": "trial",
}


def current_name(name: str) -> str:
    """The name of a module, or of something in it, that version 0.1 may have called otherwise."""
    for old, new in MODULES.items():
        if name == old or name.startswith(old + "."):
            return new + name[len(old) :]
    return name


def update_names(config: dict[str, Any]) -> dict[str, Any]:
    """Replace old names, in place.

    Args:
        config: Merged, or as a checkpoint holds it.

    Returns:
        The same config.
    """
    imports = config.get("custom_imports")
    modules = imports.get("imports") if isinstance(imports, dict) else None
    modules = [modules] if isinstance(modules, str) else modules
    if isinstance(modules, list) and all(isinstance(module, str) for module in modules):
        config["custom_imports"]["imports"] = list(map(current_name, modules))
    for section in sections(config):
        _update(section)
    hooks, named_hooks = config.get("custom_hooks"), config.get("default_hooks") or {}
    if isinstance(hooks, list) and isinstance(named_hooks, dict):
        old = [hook for hook in hooks if isinstance(hook, dict) and hook.get("type") in [*HOOKS]]
        named = {HOOKS[hook["type"]]: hook for hook in reversed(old)}
        config["default_hooks"] = {**named_hooks, **named}
        config["custom_hooks"] = [hook for hook in hooks if not any(hook is moved for moved in named.values())]
    return config


def _update(section: dict[str, Any]) -> None:
    kind = section.get("type")
    if isinstance(kind, str):
        section["type"] = kind = TYPES.get(kind, current_name(kind))
        for old in OPTIONS.get(kind, {}).keys() & section.keys():
            section[OPTIONS[kind][old]] = section.pop(old)
