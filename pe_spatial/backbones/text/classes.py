"""Classes described in words: prompts from templates, and one feature for each class.

Letters: K classes, T templates, D channels of a feature.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_spatial.backbones.text.core import PECore
from pe_spatial.backbones.text.tokenizer import END
from pe_spatial.common.console import track
from pe_spatial.common.errors import OptionError, few

PLACES = ("{c}", "{}")  # where a template takes the name of a class
NO_TEMPLATES = ("{c}",)

_LISTS_KEPT = 16  # of classes, for each model
_KEPT: WeakKeyDictionary[PECore, dict[Any, Tensor]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Prompts:
    """Names of classes and the templates that make sentences of them.

    Args:
        classes: K names, each once.
        templates: T sentences with the place `{c}` or `{}`; other braces are plain text.
        repeated: Names may come twice, as two of ImageNet's 1000 do.

    Raises:
        OptionError: No class or no template, an empty name, a name that comes twice, a template without a place, or
            the end token of the vocabulary in either.
    """

    classes: tuple[str, ...]
    templates: tuple[str, ...] = NO_TEMPLATES
    repeated: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "templates", tuple(self.templates))
        if not self.classes:
            raise OptionError("there are no classes; give at least one")
        if not self.templates:
            raise OptionError(f"there are no templates; give at least one, such as {NO_TEMPLATES[0]!r}")
        for name in self.classes:
            if not name.strip():
                raise OptionError(f"class {name!r} of {len(self.classes)} has no name; remove it")
        for template in self.templates:
            if not any(place in template for place in PLACES):
                raise OptionError(f"template {template!r} has no place for the class; write {{c}} where it belongs")
        twice = [name for name, count in Counter(self.classes).items() if count > 1]
        if twice and not self.repeated:
            raise OptionError(f"{len(twice)} of the classes are given more than once ({few(twice)}); name each once")
        if ending := [text for text in (*self.classes, *self.templates) if END in text.lower()]:
            raise OptionError(f"{few(map(repr, ending))}: {END} marks the end of a text for the model; remove it")

    @property
    def digest(self) -> str:
        """16 digits that tell these lists from others."""
        return hashlib.sha256(repr((self.classes, self.templates)).encode()).hexdigest()[:16]

    def of(self, name: str) -> list[str]:
        """The T prompts of a class."""
        return [fill_template(template, name) for template in self.templates]


def fill_template(template: str, name: str) -> str:
    """A template with the name of a class in its places; braces elsewhere, also those of the name, stay as they are."""
    place = next(place for place in PLACES if place in template)
    return template.replace(place, name)


@torch.no_grad()
def class_vectors(model: PECore, prompts: Prompts, batch_size: int = 256) -> Tensor:
    """One normalized feature for each class, float32 [K, D], as in the official zero-shot protocol.

    It is the mean of the normalized features of the class's prompts, normalized again. The vectors of a list are kept
    with the model, and computed again where its weights, their type or their device have changed.

    Args:
        model: Any PE-Core, in any mode; its text tower has no dropout.
        prompts: Classes and templates.
        batch_size: Prompts at once.
    """
    key = (prompts, _state_of(model))
    kept = _KEPT.setdefault(model, {})
    if key not in kept:
        if len(kept) >= _LISTS_KEPT:
            kept.pop(next(iter(kept)))
        kept[key] = _compute(model, prompts, batch_size)
    return kept[key].clone()  # what the caller does to it stays with the caller


def _state_of(model: PECore) -> tuple[Any, ...]:
    """What changes with the weights of the text tower: every write to a tensor counts its version up."""
    tensors = [tensor for name, tensor in model.named_parameters() if not name.startswith("visual.")]
    return tuple((tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors)


def _compute(model: PECore, prompts: Prompts, batch_size: int) -> Tensor:
    texts = [text for name in prompts.classes for text in prompts.of(name)]
    features = text_vectors(model, texts, batch_size)
    means = features.unflatten(0, (len(prompts.classes), len(prompts.templates))).mean(dim=1)
    return F.normalize(means, dim=-1)


@torch.no_grad()
def text_vectors(model: PECore, texts: Sequence[str], batch_size: int = 256, shown: bool = False) -> Tensor:
    """The normalized features float32 [B, D] of many texts, on the device of the model.

    Args:
        model: Any PE-Core, in any mode.
        texts: B of them.
        batch_size: Texts at once.
        shown: Show the progress.
    """
    tokens = model.tokenize(texts)
    by_length = tokens.argmax(dim=1).argsort(stable=True)  # a batch is as long as its longest text
    features = torch.empty(len(texts), model.output_dim, device=model.device)
    for rows in track(by_length.split(batch_size), "texts", unit="batches", shown=shown and len(texts) > batch_size):
        features[rows] = model.encode_text(tokens[rows], normalize=True).float()
    return features
