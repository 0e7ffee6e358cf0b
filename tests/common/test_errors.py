"""Texts of messages: lists that are cut, and nearest names."""

from pe_spatial.common.errors import few, suggest


def test_long_lists_are_cut_and_short_ones_are_not():
    assert few([]) == ""
    assert few(["a", "b", "c"]) == "a, b, c"
    assert few((number for number in range(9)), 2) == "0, 1, …"


def test_a_near_name_is_suggested_and_otherwise_what_is_known():
    assert suggest("widht", ["width", "depth"]) == "did you mean 'width'?"
    assert suggest("x", ["width", "depth"]) == "it knows: depth, width"
    assert suggest("x", []) == "it takes none"
