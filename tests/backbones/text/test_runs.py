"""What `--encoder` may say where words are needed: checked before any weights are looked for."""

import pytest
import torch
from small_core import TINY

from pe_spatial.backbones import PECore
from pe_spatial.backbones.text import open_core, save_core
from pe_spatial.backbones.text.runs import fingerprint_of, source_of
from pe_spatial.common.errors import OptionError, UnknownName


@pytest.mark.parametrize("name", ["PE-Spatial-B16-512", "PE-Lang-L14-448"])
def test_an_encoder_without_texts_is_refused_before_its_weights_are_looked_for(name, monkeypatch):
    def find(source):
        raise AssertionError(f"{source} is looked for")

    monkeypatch.setattr("pe_spatial.backbones.text.runs.find", find)
    with pytest.raises(OptionError, match=f"{name} has no text tower: .*PE-Core-B16-224"):
        fingerprint_of(source_of(name))
    with pytest.raises(OptionError, match="has no text tower"):
        open_core(name)


def test_a_folder_gives_its_model_again_and_other_weights_another_fingerprint(tmp_path):
    torch.manual_seed(0)
    model, other = PECore(TINY), PECore(TINY)
    for name, each in (("one", model), ("other", other)):
        save_core(each, tmp_path / name)
    again = open_core(tmp_path / "one", device="cpu")
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))
    prints = {fingerprint_of(source_of(tmp_path / name)) for name in ("one", "other")}
    assert len(prints) == 2
    assert fingerprint_of(source_of(tmp_path / "one", "none")) == "none" == fingerprint_of(None)
    with pytest.raises(UnknownName, match="no folder of that name with a pe_core.json"):
        source_of(tmp_path)
