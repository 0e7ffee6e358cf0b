"""The tokenizer against the official one and open_clip's, and what it does with bad texts and bad vocabularies."""

import gzip
import json
import random
import warnings
from pathlib import Path

import pytest

from pe_spatial.backbones.text import tokenizer as module
from pe_spatial.backbones.text import vocabulary
from pe_spatial.backbones.text.tokenizer import Tokenizer, open_tokenizer
from pe_spatial.backbones.text.vocabulary import FILE_NAME, PATH_VARIABLE, find_vocabulary, read_merges
from pe_spatial.common.errors import MissingPackage, UnreadableFile

pytest.importorskip("ftfy")
pytest.importorskip("regex")

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "tokenizer.json").read_text())


@pytest.fixture(scope="module")
def tokenizer():
    return open_tokenizer()


@pytest.mark.parametrize("number", range(len(GOLDEN["rows"])))
def test_prompts_become_the_official_tokens(tokenizer, number):
    row = GOLDEN["rows"][number]
    assert tokenizer.encode(row["text"]) == row["ids"]
    for context in (32, 72):
        expected = row[f"context{context}"]
        with warnings.catch_warnings(record=True):
            tokens = tokenizer(row["text"], context)
        assert tokens.tolist() == [expected + [0] * (context - len(expected))]
    assert tokenizer.decode(row["ids"]) == row["decoded"]


def test_the_numbers_are_those_of_the_vocabulary(tokenizer):
    assert (len(tokenizer), tokenizer.start, tokenizer.end) == (GOLDEN["vocab_size"], GOLDEN["sot"], GOLDEN["eot"])


def test_random_texts_equal_open_clip(tokenizer):
    theirs = pytest.importorskip("open_clip.tokenizer").SimpleTokenizer(context_length=32)
    letters = "abcdeXYZ 0159.,!'-\"éßñ漢字かな🙂&;<>_\t{}" + "the and ing"
    generator = random.Random(0)
    for _ in range(300):
        text = "".join(generator.choices(letters, k=generator.randrange(40)))
        assert tokenizer.encode(text) == theirs.encode(text), text


def test_long_texts_and_end_tokens_inside_are_counted_and_said_once(tokenizer):
    with pytest.warns(UserWarning) as said:
        tokens = tokenizer(["word " * 40, "a cat", "many " * 50, "a <end_of_text> dog"], 32)
    assert [str(warning.message).partition(":")[0] for warning in said] == [
        "2 of 4 texts longer than 30 word pieces, and cut there",
        "1 of 4 texts with <end_of_text> inside",
    ]
    assert tokens[:, -1].tolist() == [tokenizer.end, 0, tokenizer.end, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer(["word " * 29 + "end"], 32)  # fits to the last place


@pytest.mark.parametrize(("texts", "message"), [([], "there are no texts"), (["a", 3], "3 is a int, not a text")])
def test_what_is_no_text_is_refused(tokenizer, texts, message):
    with pytest.raises(ValueError, match=message):
        tokenizer(texts, 32)


# --- the vocabulary ---------------------------------------------------------------------------------------------------
def test_a_file_of_ones_own_is_taken_first(tmp_path, monkeypatch):
    own = tmp_path / "own.txt"
    own.write_bytes(gzip.decompress(find_vocabulary().read_bytes()))
    monkeypatch.setenv(PATH_VARIABLE, str(own))
    assert find_vocabulary() == own
    assert read_merges(own)[0] == ("i", "n")
    monkeypatch.setenv(PATH_VARIABLE, str(tmp_path / "absent.gz"))
    with pytest.raises(FileNotFoundError, match=r"no vocabulary at .*absent\.gz; give"):
        Tokenizer()


def test_another_vocabulary_and_a_damaged_one_are_refused(tmp_path):
    path = tmp_path / FILE_NAME
    path.write_bytes(gzip.compress(b"#version\na b\n"))
    with pytest.raises(UnreadableFile, match="is not the vocabulary of PE-Core: the SHA-256"):
        Tokenizer(path)
    path.write_bytes(find_vocabulary().read_bytes()[:5000])
    with pytest.raises(UnreadableFile, match=r"is damaged .* download it again"):
        Tokenizer(path)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(vocabulary, "_PLACES", {"no_such_package": "x"})
    with pytest.raises(MissingPackage, match=r"no_such_package; neither is installed.*install 'pe_spatial\[text\]'"):
        Tokenizer()
    monkeypatch.setitem(module.__dict__["warnings"].sys.modules, "ftfy", None)
    with pytest.raises(MissingPackage, match=r"texts need ftfy, which is not installed; pip install 'pe_spatial\[text"):
        Tokenizer()
