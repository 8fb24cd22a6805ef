"""The book's text as words: what stands between letters, and rare ones by name.

Knows how a text is cut into words and which of them have a number of their own.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sparse_attn.checks import check_count
from sparse_attn.corpus.source import load

WORD = re.compile(r"[A-Za-z_]+|[0-9]|\n[ ]*|[ ]+|[^A-Za-z_0-9\s]|\s")
UNKNOWN = "<unknown>"  # in place of every word without a number of its own


@dataclass(frozen=True, eq=False)
class Words:
    """The text in words: names in order of frequency in the training text.

    train, validation: 1-D int64 tensors. names[i] is word i; the last is `UNKNOWN`.
    """

    train: Tensor
    validation: Tensor
    names: tuple[str, ...]


@lru_cache(maxsize=2)
def words(vocab: int = 4096) -> Words:
    """The corpus as identifiers, digits, operators, and runs of spaces, the `vocab` - 1
    most frequent by number.

    Raises ValueError for fewer than two words, or more than there are.
    """
    check_count("vocab", vocab, least=2)
    text = load()
    found = [
        WORD.findall(bytes(part.numpy()).decode("utf-8", errors="replace"))
        for part in (text.train, text.validation)
    ]
    counts = Counter(found[0]).most_common()
    check_count("vocab", vocab, most=len(counts) + 1)
    names = (*(name for name, _ in counts[: vocab - 1]), UNKNOWN)
    numbers = {name: i for i, name in enumerate(names)}
    last = vocab - 1
    parts = [torch.tensor([numbers.get(word, last) for word in part]) for part in found]
    return Words(*parts, names)
