"""Texts to learn from: `source` for the book's own, in bytes, `word_level` for the same
in words, `synthetic` for text whose entropy is known.

`from sparse_attn import corpus`, then corpus.load(), corpus.zipf(...), and so on.
"""

from sparse_attn.corpus.source import (
    SEPARATOR,
    SHA256,
    VERSION,
    Corpus,
    batch,
    check_text,
    is_validation,
    load,
    read,
    windows,
)
from sparse_attn.corpus.synthetic import (
    ZipfText,
    entropy,
    stationary,
    zipf,
    zipf_probabilities,
)
from sparse_attn.corpus.word_level import UNKNOWN, Words, words

__all__ = [
    "SEPARATOR",
    "SHA256",
    "UNKNOWN",
    "VERSION",
    "Corpus",
    "Words",
    "ZipfText",
    "batch",
    "check_text",
    "entropy",
    "is_validation",
    "load",
    "read",
    "stationary",
    "windows",
    "words",
    "zipf",
    "zipf_probabilities",
]
