"""From texts to numbers of word pieces, as the tokenizer of OpenAI's CLIP does, which PE-Core was trained with.

Letters: B texts, L tokens of a text.
"""

import html
import warnings
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from pe_spatial.backbones.text.vocabulary import INSTALL, find_vocabulary, read_merges
from pe_spatial.common.errors import MissingPackage, OptionError, few

START, END = "<start_of_text>", "<end_of_text>"

_WORDS_KEPT = 2**16  # whose pieces are remembered
_LETTERS_SHOWN = 60  # of a text in a warning
# the special tokens, English contractions, runs of letters, single digits, runs of other signs
_PATTERN = rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"


class Tokenizer:
    """Byte-pair encoding with OpenAI's vocabulary of 49,408 pieces.

    Args:
        vocabulary: See `find_vocabulary`.

    Attributes:
        start, end: Numbers of the tokens around every text.

    Raises:
        MissingPackage: ftfy, regex or the vocabulary is not installed.
        UnreadableFile: The file is damaged or another vocabulary.
    """

    def __init__(self, vocabulary: str | Path | None = None) -> None:
        try:
            import ftfy
            import regex
        except ModuleNotFoundError as error:
            raise MissingPackage(f"texts need {error.name}, which is not installed; {INSTALL}") from error
        self._repair = ftfy.fix_text
        self._split = regex.compile(_PATTERN, regex.IGNORECASE).findall
        merges = read_merges(find_vocabulary(vocabulary))
        self._letters = _letters_of_bytes()
        letters = list(self._letters.values())
        pieces = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), START, END]
        self._numbers = {piece: number for number, piece in enumerate(pieces)}
        self._pieces = pieces
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.start, self.end = self._numbers[START], self._numbers[END]
        self._word = lru_cache(_WORDS_KEPT)(self._encode_word)

    def __len__(self) -> int:
        return len(self._pieces)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without those for start and end.

        Broken encodings and HTML entities are repaired, and capitals do not count.
        """
        text = html.unescape(html.unescape(self._repair(text)))
        text = " ".join(text.split()).lower()
        return [number for word in self._split(text) for number in self._word(word)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; every word ends with a space."""
        special = {self.start, self.end}
        values = {letter: value for value, letter in self._letters.items()}
        decoded = bytearray()
        for number in tokens:
            piece = self._pieces[number]
            if number in special:
                decoded += piece.encode()
                continue
            decoded += bytes(values[letter] for letter in piece.removesuffix("</w>"))
            decoded += b" " * piece.endswith("</w>")
        return decoded.decode(errors="replace")

    def __call__(self, texts: str | Sequence[str], context: int) -> Tensor:
        """The tokens int64 [B, context] of texts: start, text, end, zeros.

        A text that is too long is cut so that its end still fits; how many were is said in one warning.

        Args:
            texts: One or many.
            context: See `TextConfig`.

        Raises:
            OptionError: There is no text, or something that is none.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        if not several:
            raise OptionError("there are no texts; give at least one")
        for text in several:
            if not isinstance(text, str):
                raise OptionError(f"{text!r} is a {type(text).__name__}, not a text")
        tokens = torch.zeros(len(several), context, dtype=torch.long)
        long, ended = [], []
        for row, text in zip(tokens, several, strict=True):
            numbers = [self.start, *self.encode(text), self.end]
            if len(numbers) > context:
                long.append(text)
                numbers = [*numbers[: context - 1], self.end]
            if self.end in numbers[:-1]:
                ended.append(text)
            row[: len(numbers)] = torch.tensor(numbers)
        _warn(long, len(several), f"longer than {context - 2} word pieces, and cut there")
        _warn(ended, len(several), f"with {END} inside: what follows it does not count")
        return tokens

    def _encode_word(self, word: str) -> list[int]:
        if word in (START, END):
            return [self._numbers[word]]
        letters = [self._letters[value] for value in word.encode()]
        parts = [*letters[:-1], letters[-1] + "</w>"]
        while len(parts) > 1:
            pair = min(pairwise(parts), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if pair not in self._ranks:
                break
            parts = _join(parts, pair)
        return [self._numbers[part] for part in parts]


@cache
def open_tokenizer(vocabulary: str | Path | None = None) -> Tokenizer:
    """The tokenizer of this process; see `Tokenizer`."""
    return Tokenizer(vocabulary)


def _join(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Parts in which the two of a pair, wherever they follow each other, are one."""
    joined, i = [], 0
    while i < len(parts):
        both = tuple(parts[i : i + 2]) == pair
        joined.append("".join(pair) if both else parts[i])
        i += 1 + both
    return joined


def _letters_of_bytes() -> dict[int, str]:
    """A visible letter for each byte, in the order of the vocabulary: those that are visible stand for themselves."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [value for value in range(256) if value not in visible]
    return {value: chr(value) for value in visible} | {value: chr(256 + i) for i, value in enumerate(hidden)}


def _warn(texts: Sequence[str], count: int, what: str) -> None:
    if texts:
        shown = few((repr(text[:_LETTERS_SHOWN] + "…" * (len(text) > _LETTERS_SHOWN)) for text in texts), 2)
        warnings.warn(f"{len(texts)} of {count} texts {what}: {shown}", stacklevel=3)
