"""BERT's uncased WordPiece tokenizer, as far as plain English needs it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class WordPiece:
    """Greedy longest-match-first word pieces (Wu et al., 2016) from a vocabulary file."""

    def __init__(self, vocabulary: Path) -> None:
        words = vocabulary.read_text(encoding="utf-8").splitlines()
        self._ids = {word: i for i, word in enumerate(words)}

    def encode(self, sentence: str) -> list[int]:
        """The ids of ``[CLS] sentence [SEP]``."""
        words = re.findall(r"\w+|[^\w\s]", sentence.lower())
        pieces = [piece for word in words for piece in self._pieces(word)]
        return [self._ids[piece] for piece in ("[CLS]", *pieces, "[SEP]")]

    def batch(self, sentences: list[str]) -> dict[str, NDArray[np.int64]]:
        """Padded inputs of a BERT, [len(sentences), longest]."""
        encoded = [self.encode(sentence) for sentence in sentences]
        longest = max(map(len, encoded))
        ids = np.full((len(encoded), longest), self._ids["[PAD]"], np.int64)
        for row, tokens in zip(ids, encoded, strict=True):
            row[: len(tokens)] = tokens
        mask = (ids != self._ids["[PAD]"]).astype(np.int64)
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}

    def _pieces(self, word: str) -> list[str]:
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                if prefix + word[start:end] in self._ids:
                    pieces.append(prefix + word[start:end])
                    start = end
                    break
            else:
                return ["[UNK]"]
        return pieces
