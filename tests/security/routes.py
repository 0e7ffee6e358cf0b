"""Ways to make a config run code: the key that is set, what it is set to, and what it would do if it were obeyed.

`payload` is a module that touches the canary when it is imported or when anything of it is called; commands and pickles
touch the canary too.
"""

import pickle
from pathlib import Path

PAYLOAD = """
import os
from pathlib import Path
Path(os.environ["CANARY"]).touch()
class Thing:
    def __init__(self, *args, **kwargs): Path(os.environ["CANARY"]).touch()
def function(*args, **kwargs): return Thing()
"""


class Pickled:
    """Touches a file where it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (Path(self.canary),)


def write_pickle(path, canary):
    path.write_bytes(pickle.dumps({"state_dict": Pickled(canary)}))
    return path


def routes(canary, folder):
    """Route -> (dotted key, value). The key is what the message must name."""
    command = f"touch {canary}"
    thing = {"type": "payload.Thing"}
    evil = str(folder / "evil.pkl")
    step = "val_dataloader.dataset.pipeline.1"
    return {
        # a type that runs a command
        "a preprocessor of the model": ("model.data_preprocessor", {"type": "subprocess.getoutput", "cmd": command}),
        "a preprocessor": ("data_preprocessor", {"type": "subprocess.getoutput", "cmd": command}),
        "a pipeline step": (step, {"type": "os.system", "command": command}),
        "a step within a step": (step, {"type": "RandomApply", "transforms": [{"type": "os.popen", "cmd": command}]}),
        "a builtin": ("model.neck", {"type": "builtins.eval", "source": f"__import__('os').system({command!r})"}),
        "a partial": ("model.neck", {"type": "functools.partial", "func": "os.system"}),
        "a module of the library": ("model.neck", {"type": "runpy.run_path", "path_name": str(folder / "payload.py")}),
        # a type whose import runs code
        "the model": ("model.type", "payload.Thing"),
        "a part of the model": ("model.backbone", thing),
        "a list of parts": ("model.roi_heads.extra", [[thing]]),
        "a training step": ("train_dataloader.dataset.pipeline.1", thing),
        "a custom hook": ("custom_hooks", [thing]),
        "a default hook": ("default_hooks.extra", thing),
        "a dataset": ("train_dataloader.dataset", thing),
        "a wrapped dataset": ("train_dataloader.dataset", {"type": "ConcatDataset", "datasets": [thing]}),
        "a sampler": ("train_dataloader.sampler", thing),
        "a batch sampler": ("train_dataloader.batch_sampler", thing),
        "a collate function": ("train_dataloader.collate_fn", {"type": "payload.function"}),
        "a worker's start": ("train_dataloader.worker_init_fn", {"type": "payload.function"}),
        "a metric": ("val_evaluator", [thing]),
        "a loop": ("train_cfg.type", "payload.Thing"),
        "an optimizer": ("optim_wrapper.optimizer.type", "payload.Thing"),
        "an optimizer's wrapper": ("optim_wrapper.type", "payload.Thing"),
        "a constructor": ("optim_wrapper.constructor", "payload.Thing"),
        "a scheduler": ("param_scheduler", [thing]),
        "a visualizer": ("visualizer.type", "payload.Thing"),
        "a backend of it": ("visualizer.vis_backends", [thing]),
        "a log processor": ("log_processor.type", "payload.Thing"),
        "a wrapper of the model": ("model_wrapper_cfg", thing),
        "a norm": ("model.backbone.norm_cfg", thing),
        "an average by its kind": ("custom_hooks", [{"type": "EMAHook", "ema_type": "payload.Thing"}]),
        "a resize by its kind": (step, {"type": "RandomChoiceResize", "scales": [8], "resize_type": "payload.Thing"}),
        "a name without a dot": ("model.type", "payload"),
        # imports and scopes
        "imports": ("custom_imports", {"imports": ["pe_spatial.detection", "payload"]}),
        "one import": ("custom_imports", {"imports": "payload"}),
        "an import of Python's": ("custom_imports", {"imports": ["antigravity"]}),
        "a program of ours": ("custom_imports", {"imports": ["pe_spatial.__main__"]}),
        "the scope": ("default_scope", "payload"),
        "a scope of a part": ("model._scope_", "payload"),
        "a scope that is not installed": ("model.type", "mmdet.Detector"),
        # names that begin harmlessly
        "behind a scope": ("model.neck", {"type": "mmseg.subprocess.getoutput", "cmd": command}),
        "a module inside a free one": ("model.neck.type", "torch.nn.parallel.distributed.os.system"),
        "a module in a free one": ("model.neck.type", "torch.nn.parallel.distributed.os"),
        "the hub": ("model.neck", {"type": "torch.hub.load", "repo_or_dir": str(folder), "source": "local"}),
        "torch's reader": ("model.neck", {"type": "torch.load", "f": evil, "weights_only": False}),
        "a compiler": ("model.neck", {"type": "torch.utils.cpp_extension.load", "name": "x", "sources": []}),
        "a method": ("model.neck.type", "torch.nn.Module.load_state_dict"),
        "a function of a free package": ("model.neck.type", "torch.nn.functional.relu"),
        "a transform that calls": (step, {"type": "torchvision.transforms.v2.Lambda", "lambd": "os.system"}),
        "mmengine's reader": ("model.neck", {"type": "mmengine.load", "file": evil}),
        "mmengine's shell": ("model.neck.type", "mmengine.utils.package_utils.call_command"),
        "mmengine's config": ("model.neck", {"type": "mmengine.Config.fromfile", "filename": f"{folder}/payload.py"}),
        "a function of ours": ("model.neck", {"type": "pe_spatial.common.files.write_text", "path": str(canary)}),
        "a class of ours": ("model.neck", {"type": "pe_spatial.inference.predictor.Predictor", "checkpoint": evil}),
        # registered names and options that act
        "a hook that evaluates text": ("custom_hooks", [{"type": "RFSearchHook", "mode": "search", "config": {}}]),
        "a program of mmengine": (step, {"type": "mmengine.runner.Runner", "model": {}, "work_dir": str(folder / "x")}),
        "its flexible kind": (
            "model.neck",
            {"type": "mmengine.runner._flexible_runner.FlexibleRunner", "model": {}, "work_dir": str(folder / "x")},
        ),
        "a strategy of it": (step, {"type": "mmengine._strategy.SingleDeviceStrategy", "work_dir": str(folder / "x")}),
        "processes that the rules do not reach": ("env_cfg.mp_cfg.mp_start_method", "spawn"),
        "a client by its scheme": (step, {"type": "mmseg.LoadAnnotations", "file_client_args": {"prefix": "http"}}),
        "a metric that writes": ("val_evaluator", [{"type": "DumpResults"}]),
        "a folder that is removed": ("val_evaluator.collect_dir", str(folder)),
        "a file that is written": (
            "visualizer.vis_backends",
            [{"type": "LocalVisBackend", "config_save_file": f"{folder}/usercustomize.py"}],
        ),
        "a policy of the wrapper": (
            "model_wrapper_cfg",
            {"type": "MMFullyShardedDataParallel", "auto_wrap_policy": "payload.function"},
        ),
        "weights by a name": ("model.backbone", {"type": "mmseg.TIMMBackbone", "model_name": "hf-hub:evil/model"}),
        "a service": ("visualizer.vis_backends", [{"type": "WandbVisBackend"}]),
        "files by another backend": (
            step,
            {"type": "mmseg.LoadAnnotations", "backend_args": {"backend": "memcached", "sys_path": str(folder)}},
        ),
        "labels in pickles": (step, {"type": "mmseg.LoadBiomedicalAnnotation", "decode_backend": "pickle"}),
        "a program as the compiler": ("compile", {"options": {"cpp.cxx": [str(folder / "payload.py")]}}),
        "another compiler": ("compile", {"backend": "payload"}),
        "weights from an address": ("load_from", "https://example.org/evil.pth"),
        "first weights of a part": (
            "model.backbone.init_cfg",
            {"type": "Pretrained", "checkpoint": "open-mmlab://evil"},
        ),
        "a base inside a section": ("model._base_", str(folder / "payload.py")),
        "a type that is a mapping": ("model.neck.type", {"type": "payload.Thing"}),
        "a type that is a list": ("model.neck.type", ["payload.Thing"]),
    }
