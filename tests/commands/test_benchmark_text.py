"""`pe-spatial benchmark text`: both halves of a small PE-Core against open_clip's on the same weights."""

import json

import pytest
from small_core import TINY

from pe_spatial.backbones import VARIANTS, get_variant
from pe_spatial.commands.benchmark import text
from pe_spatial.commands.shell import run_command


def test_both_halves_are_compared(tmp_path, monkeypatch):
    """With open_clip's own text tower; its image tower has one size, so ours stands in for it."""
    open_clip = pytest.importorskip("open_clip")
    config = get_variant(TINY)

    def small(model, variant):
        tower = open_clip.transformer.TextTransformer(
            context_length=config.text.context,
            width=config.text.width,
            heads=config.text.heads,
            layers=config.text.depth,
            output_dim=config.output_dim,
        )
        skipped = ("visual.", "logit_scale")
        state = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith(skipped)}
        tower.load_state_dict(state)
        tower.eval()
        tower.encode_text, tower.encode_image = tower.forward, model.encode_image
        return tower

    monkeypatch.setattr(text, "open_clip_model", small)
    monkeypatch.setitem(VARIANTS, "tiny", config)
    figures = tmp_path / "figures.json"
    options = ["--variant", "tiny", "--clock", "cpu", "--rounds", "1", "--threads", "1", "--device", "cpu"]
    assert run_command("benchmark", ["text", *options, "--texts", "8", "--json", str(figures)]) == 0
    rows = json.loads(figures.read_text())["rows"]
    assert [row["what"] for row in rows] == ["text", "text, no prompt cut", "image"]
    assert all(row["largest_difference"] < 2e-6 and row["ours_s"] > 0 for row in rows)


def test_the_names_are_those_of_open_clip():
    open_clip = pytest.importorskip("open_clip")
    assert set(text.OPEN_CLIP.values()) <= set(open_clip.list_models())
    assert set(text.OPEN_CLIP) == {name for name, row in VARIANTS.items() if row.text}
