"""Whose code may be imported because a config or a checkpoint names it: what the command line or the caller says.

See SECURITY.md. What needs no such word is decided by `pe_spatial.training.trust`.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec

from pe_spatial.common.errors import OptionError

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_trusted: ContextVar[tuple[str, ...] | None] = ContextVar("trusted packages", default=None)


@contextmanager
def trusting(packages: str | Iterable[str] = ()) -> Iterator[None]:
    """Hold what configs name to the rules of SECURITY.md, and let them import these packages in addition.

    Blocks nest: what the outer one trusts, the inner one trusts too.

    Args:
        packages: Names such as `my_package` or `my_package.models`; what lies below them is trusted with them.

    Raises:
        OptionError: One is no name of a package that can be found, or part of Python itself.
    """
    names = (packages,) if isinstance(packages, str) else tuple(packages)
    for name in names:
        _check(name)
    token = _trusted.set((*(_trusted.get() or ()), *names))
    try:
        yield
    finally:
        _trusted.reset(token)


def is_guarded() -> bool:
    """Whether the rules hold here: within a command, or a function of ours that takes `trust`."""
    return _trusted.get() is not None


def is_trusted(module: str) -> bool:
    """Whether a module was named, or the package that it is in."""
    return any(within(module, package) for package in _trusted.get() or ())


def within(name: str, package: str) -> bool:
    """Whether a dotted name is a package's or lies in it."""
    return name == package or name.startswith(package + ".")


def is_there(package: str) -> bool:
    """Whether there is a top-level package or module of this name; it is looked for but not imported."""
    return package in sys.modules or find_spec(package) is not None


def unsaid(name: str) -> str:
    """Why a dotted name is not imported, and what to do, for a message."""
    package = name.partition(".")[0]
    if not _NAME.fullmatch(package) or package in sys.stdlib_module_names:
        return f"{name!r} would run code of Python itself; remove it"
    if not is_there(package):
        return f"{name!r}: there is no module {package!r}; correct the name, or install it"
    return f"{name!r} is imported only if you allow it, because it can run any code; {remedy(package)}"


def remedy(package: str) -> str:
    """How to trust a package, for a message."""
    return f'if you trust its author: --allow-import {package}, or trust=["{package}"] in Python'


def _check(name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OptionError(f"{name!r} is not the name of a package; write for example --allow-import my_package")
    package = name.partition(".")[0]
    if package in sys.stdlib_module_names:
        raise OptionError(f"{name!r} is part of Python itself, which a config never needs; remove --allow-import")
    if not is_there(package):
        raise OptionError(f"no package {package!r} is installed or on PYTHONPATH; correct --allow-import {name}")
