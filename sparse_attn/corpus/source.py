"""The book's text: SymPy's own Python source, the same bytes on every machine.

Knows where the text lies, how it is split and cut; leaves what is learned from it to
`training`. A token is a byte, so the vocabulary has 256 words and needs no tokenizer.
"""

import hashlib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path

import torch
from torch import Tensor

from sparse_attn.checks import check_count, check_counts

VERSION = "1.14.0"  # of sympy, and its text's hash: train, then validation
SHA256 = "41e89447c16186fbecc6728b242f6004fe39f44099e1e0cfb90cce8b2dc5df89"
SKIPPED = {"tests", "benchmarks"}  # directories with code of another kind
SEPARATOR = b"\0"  # between documents; it occurs in none


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text in two parts that share no document.

    train, validation: 1-D uint8 tensors. documents: how many files each part has.
    sha256: of all bytes, train and then validation.
    """

    train: Tensor
    validation: Tensor
    documents: dict[str, int]
    sha256: str


@lru_cache(maxsize=1)
def load() -> Corpus:
    """The text, read from the installed sympy: nothing is downloaded.

    Documents are all .py files but tests and benchmarks, in the order of their paths.
    Warns if the bytes are not those the book was computed with.
    Raises ModuleNotFoundError where sympy is missing.
    """
    found = util.find_spec("sympy")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            f"sympy is missing, whose source is the text: pip install sympy=={VERSION}"
        )
    corpus = read(Path(found.origin).parent)
    if corpus.sha256 != SHA256:
        warnings.warn(
            f"the text is not the book's: sympy {metadata.version('sympy')} is here, "
            f"SHA-256 {corpus.sha256[:16]}, and not {VERSION}, {SHA256[:16]}. All will "
            f"run, but results differ slightly: pip install sympy=={VERSION}",
            stacklevel=2,
        )
    return corpus


def read(root: Path) -> Corpus:
    """The Python files below the folder `root` as a corpus, bytes with newlines \\n."""
    paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.py"))
    parts = {"train": [], "validation": []}
    for path in paths:
        if SKIPPED.isdisjoint(path.split("/")[:-1]):
            text = (root / path).read_bytes()
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            parts["validation" if is_validation(path) else "train"].append(text)
    texts = {name: SEPARATOR.join(documents) for name, documents in parts.items()}
    for name, text in texts.items():
        if not text:
            raise ValueError(f"root={str(root)!r} holds no text for {name}")
    return Corpus(
        **{name: _tensor(text) for name, text in texts.items()},
        documents={name: len(documents) for name, documents in parts.items()},
        sha256=hashlib.sha256(texts["train"] + texts["validation"]).hexdigest(),
    )


def is_validation(path: str) -> bool:
    """Whether a document is held out: one path in twenty, by the hash of its name.

    A file stays on its side when others come or go, as with another sympy.
    """
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8]) % 20 == 0


def _tensor(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def batch(
    data: Tensor, B: int, T: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """B windows at random places: x, and y with the byte that follows each byte of x.

    data: 1-D, more than T long. Returns two int64 tensors (B, T) on data's device.
    """
    check_counts(B=B, T=T)
    check_text(data, T)
    starts = torch.randint(len(data) - T, (B,), generator=generator)
    return _cut(data, starts, T)


def windows(data: Tensor, T: int, count: int) -> tuple[Tensor, Tensor]:
    """`count` evenly spaced windows of T that do not overlap: x and y as in `batch`.

    The same windows at every call, for evaluation. Returns int64 (count, T) twice.
    Raises ValueError if so many do not fit.
    """
    check_counts(T=T)
    check_text(data, T)
    targets = len(data) - 1  # every byte but the first
    check_count("count", count, most=targets // T)
    starts = torch.arange(count) * targets // count  # at least T apart
    return _cut(data, starts, T)


def check_text(data: Tensor, T: int):
    """`data` is a 1-D tensor of integers, longer than T; anything else raises."""
    if not isinstance(data, Tensor):
        raise ValueError(f"data is {type(data)}: a 1-D tensor of integers is needed")
    if data.ndim != 1 or data.is_floating_point() or data.is_complex():
        raise ValueError(
            f"data is {data.dtype} of shape {tuple(data.shape)}: "
            "a 1-D tensor of integers is needed"
        )
    if len(data) <= T:
        raise ValueError(f"T={T} needs {T + 1} bytes or more: data has {len(data)}")


def _cut(data: Tensor, starts: Tensor, T: int) -> tuple[Tensor, Tensor]:
    places = (starts[:, None] + torch.arange(T + 1)).to(data.device)  # (B, T + 1)
    cut = data[places].long()
    return cut[:, :-1], cut[:, 1:]
