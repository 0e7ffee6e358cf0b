"""Prompts of classes, and their features: kept while the weights are the same, and no longer."""

import pytest
import torch
from small_core import TINY
from torch import nn

from pe_spatial.backbones import PECore
from pe_spatial.backbones.text import Prompts, class_vectors, fill_template
from pe_spatial.backbones.text.classes import NO_TEMPLATES


@pytest.fixture
def model():
    pytest.importorskip("ftfy")
    torch.manual_seed(0)
    return PECore(TINY)


@pytest.mark.parametrize(
    ("template", "name", "text"),
    [
        ("a photo of a {c}.", "cat", "a photo of a cat."),
        ("a photo of a {}.", "cat", "a photo of a cat."),
        ("{c}, yes, {c}", "cat", "cat, yes, cat"),
        ("a {c}", "set {1, 2}", "a set {1, 2}"),
        ("a {c} of {0.__class__} {", "{}", "a {} of {0.__class__} {"),
        ("{c} and {}", "cat", "cat and {}"),
    ],
)
def test_templates_take_names_as_they_are(template, name, text):
    assert fill_template(template, name) == text


@pytest.mark.parametrize(
    ("classes", "templates", "message"),
    [
        ([], NO_TEMPLATES, "there are no classes; give at least one"),
        (["cat"], [], "there are no templates"),
        (["cat", " "], NO_TEMPLATES, "class ' ' of 2 has no name"),
        (["cat", "dog", "cat"], NO_TEMPLATES, r"1 of the classes are given more than once \(cat\)"),
        (["cat"], ["a photo"], "template 'a photo' has no place for the class; write {c} where it belongs"),
        (["cat <END_OF_TEXT> x"], NO_TEMPLATES, "<end_of_text> marks the end of a text for the model"),
        (["cat"], ["<end_of_text> {c}"], "<end_of_text> marks the end of a text for the model"),
    ],
)
def test_lists_that_cannot_be_are_refused(classes, templates, message):
    with pytest.raises(ValueError, match=message):
        Prompts(classes, templates)


def test_one_class_is_enough(model):
    vectors = class_vectors(model, Prompts(["cat"]))
    assert vectors.shape == (1, 12)
    torch.testing.assert_close(vectors, model.encode_text("cat", normalize=True).detach())


def test_the_batches_of_prompts_change_nothing(model):
    prompts = Prompts(["cat", "a very long name of some class", "dog"], ["{c}", "an old photo of the {c}"])
    whole = class_vectors(model, prompts)
    other = PECore(TINY)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(class_vectors(other, prompts, batch_size=1), whole, atol=1e-6, rtol=0)


def test_vectors_are_kept_until_the_weights_change(model):
    calls = []
    model.ln_final.register_forward_hook(lambda *_: calls.append(1))
    prompts = Prompts(["cat", "dog"])
    first = class_vectors(model, prompts)
    first *= 0  # a copy: what is kept stays
    assert class_vectors(model, Prompts(("cat", "dog"))).norm() > 1
    assert len(calls) == 1
    class_vectors(model, Prompts(["dog", "cat"]))
    assert len(calls) == 2
    nn.init.normal_(model.text_projection)
    changed = class_vectors(model, prompts)
    assert len(calls) == 3
    torch.testing.assert_close(changed, model.encode_text(["cat", "dog"], normalize=True).detach())
    model.load_state_dict({key: tensor.clone() for key, tensor in model.state_dict().items()}, assign=True)
    class_vectors(model, prompts)
    assert len(calls) == 5
    model.double()
    assert class_vectors(model, prompts).dtype == torch.float32
    assert len(calls) == 6
