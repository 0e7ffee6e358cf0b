"""Names of models: every one is found and composed of recipes that exist; others are refused with the nearest."""

import pytest

from pe_spatial.common.errors import UserError
from pe_spatial.own.models import SIZES, TASKS, TINY, find_model, find_task, model_names
from pe_spatial.training.config_files import find_config

ALL = [(task, name) for task in TASKS for name in model_names(task)]


@pytest.mark.parametrize(("task", "name"), ALL)
def test_every_name_is_a_model_whose_recipe_exists(task, name):
    model = find_model(task, name)
    assert model.name == name and model.encoder == SIZES.get(model.size)
    assert find_config(f"own/{model.family.recipe}.yaml").is_file()
    assert find_config(f"_base_/tiny/{model.family.tiny}.yaml").is_file()
    assert (model.encoder is None) == name.endswith(f"-{TINY}")


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_a_default(task):
    assert find_model(task, None).name in model_names(task)


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        ("detection", "mask_rnn-s", "did you mean 'mask_rcnn-s'"),
        ("detection", "mask_rcnn-x", "mask_rcnn-{tiny,t,s,b,l,g}"),
        ("detection", "s", "detection has no model 's'"),
        ("depth", "upernet-s", "dpt-{tiny,t,s,b,l,g}, linear-"),
        ("detect", None, "did you mean 'detection'"),
    ],
)
def test_others_are_refused_with_what_there_is(task, name, message):
    with pytest.raises(UserError, match=message):
        find_model(task, name)
    if name is None:
        with pytest.raises(UserError):
            find_task(task)
