"""The sections of an alignment's config that have no `type`: its losses, by the teachers that they use."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pe_spatial.common.errors import ConfigError, suggest

Fill = Literal["zero", "mean", "learned"]


@dataclass(frozen=True)
class SemanticOptions:
    """Settings of the semantic loss, which pulls the tokens towards those of a teacher.

    Args:
        teacher: Its name among the model's `teachers`.
        weight: Of the loss.
        projection: Compare after a linear layer from the student's width to the teacher's; it is not exported. Needed
            where the widths differ.
    """

    teacher: str
    weight: float = 1.0
    projection: bool = False


@dataclass(frozen=True)
class LocalityOptions:
    """Settings of the locality loss, which pulls the cosines between tokens towards those of a teacher.

    Args:
        teacher: Its name among the model's `teachers`.
        weight: Of the loss.
        temperature: See `locality_loss`; null compares with the teacher's cosines as they are.
    """

    teacher: str
    weight: float = 1.0
    temperature: float | None = 20.0


@dataclass(frozen=True)
class GramOptions:
    """Settings of Gram anchoring (Siméoni et al., "DINOv3", 2025): the cosines between tokens stay those of an anchor.

    It is the locality loss without temperature. The anchor is a teacher whose maps are good at high resolution, such as
    a `ModuleTeacher` with `scale: 2`, or an earlier checkpoint of the student, as a teacher from its file.

    Args:
        teacher: Its name among the model's `teachers`.
        weight: Of the loss.
    """

    teacher: str
    weight: float = 1.0


def require_used(teachers: Mapping[str, Any], used: Iterable[str]) -> None:
    """Refuse losses without a teacher, and teachers without a loss.

    Raises:
        ConfigError: Names them.
    """
    used = list(used)
    if not used:
        raise ConfigError(
            "neither semantic, locality, gram nor distill is given, so there is nothing to learn; set at least one"
        )
    for name in used:
        if name not in teachers:
            raise ConfigError(f"there is no teacher {name!r}; {suggest(name, teachers)}")
    for name in teachers:
        if name not in used:
            raise ConfigError(
                f"teacher {name!r} is used by no loss; remove it or name it in semantic, locality, gram or distill"
            )
