"""The same rules where mmengine itself imports, unpickles and fetches: a second line behind `trust.violations`.

A part may make a name out of its options that no walk over a config sees. So what mmengine looks up by a name, loads
as a checkpoint or reads as a pickle is held to SECURITY.md as well, within a block of `trusting`; outside of one,
mmengine does as it always did, for other programs in the process may rely on it.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

from mmengine.fileio import io
from mmengine.fileio.handlers.pickle_handler import PickleHandler
from mmengine.registry import registry
from mmengine.runner.checkpoint import CheckpointLoader

from pe_spatial.common.errors import UserError
from pe_spatial.common.trust import is_guarded
from pe_spatial.training.checkpoint import SCHEME, load_from_pe_spatial
from pe_spatial.training.trust import may_import, resolve

_get_object = registry.get_object_from_string
_find_loader = CheckpointLoader._get_checkpoint_loader
_unpickle = PickleHandler.load_from_fileobj
_scheme_of = io._parse_uri_prefix


def _resolve_name(name: str) -> Any:
    return resolve(name) if is_guarded() else _get_object(name)


def _import_registered(name: str) -> ModuleType:
    if is_guarded() and not may_import(name):
        raise ImportError(f"{name} is not trusted")  # mmengine takes it for a package without a registry
    return import_module(name)


def _loader_of(path: str) -> Any:
    if not is_guarded() or path.startswith(SCHEME):
        return _find_loader(path)
    if "://" in path:
        raise UserError(f"weights are not downloaded from {path}; download the file yourself and give its path")
    return load_from_pe_spatial


def _refuse_pickle(self: PickleHandler, file: Any, **options: Any) -> Any:
    if is_guarded():
        name = getattr(file, "name", "the given file")
        raise UserError(f"{name} is a pickle, which can run any code, so it is refused; save it as .json or .npy")
    return _unpickle(self, file, **options)


def _refuse_address(uri: Any) -> str:
    scheme: str = _scheme_of(uri)
    if scheme and is_guarded():
        raise UserError(
            f"{uri} is not downloaded, because files are read only from the disk; download it yourself and give its "
            f"path"
        )
    return scheme


registry.get_object_from_string = _resolve_name
io._parse_uri_prefix = _refuse_address
registry.import_module = _import_registered
CheckpointLoader._get_checkpoint_loader = staticmethod(_loader_of)
PickleHandler.load_from_fileobj = _refuse_pickle
