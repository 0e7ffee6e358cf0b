"""Scenes in words: what is said is what is seen, and what is held out is never shown in training."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest

from pe_spatial.demo.captions import (
    ALL_WORDS,
    COLORS,
    HELD_OUT,
    PLACES,
    SIDE,
    Words,
    caption,
    draw_caption,
    draw_described,
    draw_objects,
    is_true,
)
from pe_spatial.demo.scenes import CLASSES


def drawn(number, **options):
    objects = draw_objects(np.random.default_rng([9, number]), **options)
    return objects, draw_described([8, number], objects)


def test_the_objects_have_the_place_the_shape_and_the_color_that_is_said():
    for number in range(60):
        objects, scene = drawn(number)
        assert [CLASSES[label] for label in scene.labels] == [words.shape for words in objects]
        for row, words in enumerate(objects):
            columns = np.flatnonzero(scene.masks[row].any(axis=0)) / SIDE
            if not len(columns):
                continue  # another object hides it
            low, high = PLACES[words.place]
            assert low - 0.25 < columns.mean() < high + 0.25
            if len(objects) > 1:
                continue  # a part may be hidden
            assert low - 0.03 < columns.mean() < high + 0.03
            pixels = scene.image[scene.masks[row]].astype(float).mean(axis=0) / 255
            hue = colorsys.rgb_to_hsv(*pixels)[0]
            assert min(COLORS, key=lambda name: abs((hue - COLORS[name] + 0.5) % 1 - 0.5)) == words.color


def test_held_out_combinations_are_never_mixed_with_the_others():
    rng = np.random.default_rng(0)
    train = {words for _ in range(800) for words in draw_objects(rng)}
    test = {words for _ in range(200) for words in draw_objects(rng, held_out=True, count=1)}
    assert (len(ALL_WORDS), len(HELD_OUT)) == (54, 9)
    assert train == set(ALL_WORDS) - HELD_OUT
    assert test == HELD_OUT


def test_every_two_words_of_a_held_out_combination_are_trained_on():
    train = set(ALL_WORDS) - HELD_OUT
    for words in HELD_OUT:
        for left_out in ("color", "shape", "place"):
            assert any(replace(words, **{left_out: None}).fits(other) for other in train)


def test_captions_are_true_of_their_scene_and_say_no_more():
    rng = np.random.default_rng(1)
    for _ in range(300):
        objects = draw_objects(rng)
        said = draw_caption(rng, objects)
        assert is_true(said, objects)
        assert all(words.color or words.shape for words in said)
        assert len(caption(said).split(" and ")) == len(said) <= len(objects)


def test_what_is_true():
    disc = Words("red", "disc", "on the left")
    assert is_true([Words("red")], [disc])
    assert is_true([Words(shape="disc", place="on the left")], [disc])
    assert not is_true([Words("red", place="on the right")], [disc])
    assert not is_true([Words("red"), Words("blue")], [disc])
    assert str(Words("red", place="in the middle")) == "a red thing in the middle"


def test_a_scene_is_a_function_of_its_seed_and_needs_full_words():
    objects, scene = drawn(3)
    assert np.array_equal(draw_described([8, 3], objects).image, scene.image)
    with pytest.raises(ValueError, match="a red thing is not in full words"):
        draw_described(0, [Words("red")])
