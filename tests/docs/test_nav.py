"""The menu of the site has every page once, and names none that is not there."""

import re

import pytest
import site_links
from command_pages import FOLDER, command_pages, slug
from doc_pages import DOCS, PAGES, entries, read, settings
from recipe_table import DATA, FOLDERS, MARK, recipes

from pe_spatial.commands.shell import COMMANDS

NAV = entries(settings()["nav"])
MADE = {*command_pages(), *site_links.ROOT_PAGES.values()}


def test_every_page_stands_in_the_menu_once():
    pages = {path.relative_to(DOCS).as_posix() for path in PAGES}
    assert not pages & MADE, "a page that the site makes is not committed"
    assert sorted(NAV) == sorted(pages | MADE)


def test_every_command_has_a_page_with_all_of_its_options():
    pages = command_pages()
    for name in COMMANDS:
        text = pages[f"{FOLDER}/{slug(name)}.md"]
        assert f"]({slug(name)}.md)" in pages[f"{FOLDER}/index.md"]
        assert text.startswith(f"# pe-spatial {name}\n")
    train = pages[f"{FOLDER}/train.md"]
    assert "| `--epochs` | `N` | 20 | passes over the training pictures |" in train
    assert "| `--traceback` |" in train and "<" not in re.sub(r"```.*?```|`[^`]*`", "", train, flags=re.DOTALL)
    assert "## pe-spatial benchmark backbone" in pages[f"{FOLDER}/benchmark.md"]
    assert "](../../shared_pass.md)" in pages[f"{FOLDER}/predict.md"]


@pytest.fixture(scope="module")
def table():
    return {recipe.name: recipe for recipe in recipes()}


def test_the_table_of_recipes_says_what_their_headers_say(table):
    assert MARK in read(DOCS / "recipes.md")
    assert {name.rpartition("/")[0] for name in table} == {*FOLDERS}
    assert all(recipe.title and recipe.data for recipe in table.values())
    best = table["pe_g_coco.yaml"]
    assert (best.encoder, best.data, best.hardware) == ("PE-Spatial-G14-448", "COCO", "64 GPUs")
    assert best.published == "box AP 57.8, mask AP 50.3 on val2017 (published)" and best.measured == "not measured"
    core = table["detection/mask_rcnn_pe_core_g_coco_75ep.yaml"]
    assert core.encoder == "PE-Core-G14-448" and core.published.startswith("box AP 57.0")
    demo = table["demo/deta_tiny_shapes.yaml"]
    assert (demo.encoder, demo.published, demo.hardware) == ("small", "none", "a CPU")
    assert demo.measured == "box AP 0.45 and AP50 0.77 (measured)"
    assert table["detection/deta_pe_spatial_l_coco_12ep_frozen_24gb.yaml"].hardware == "one card of 24 GB"


def test_numbers_of_other_encoders_are_not_taken_for_ours(table):
    eomt = table["segmentation/mask_decoder_pe_spatial_l14_ade20k_31ep.yaml"]
    assert "DINOv2-L" not in eomt.published and eomt.published == "none"
    assert table["depth/dpt1_pe_spatial_b16_nyu_20ep.yaml"].published == "none"
    alignment = table["alignment/pe_spatial_b.yaml"].encoder
    assert alignment == "PE-Spatial-B16-512, PE-Spatial-G14-448 (teacher)"
    assert len(set(DATA.values())) > 15
