"""The text: the same bytes everywhere, fairly split, cut into honest windows."""

import warnings
from importlib import metadata, util
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_attn import corpus

steady = settings(max_examples=40)
WORDS = b"def f(x):\n    return x\n"


@pytest.fixture(scope="module")
def text():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corpus.load.cache_clear()
        return corpus.load()


@pytest.fixture
def source(tmp_path):
    """A small folder of documents; returns the function that writes one."""

    def write(path, data):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    for i in range(60):
        write(f"part{i % 3}/m{i}.py", WORDS + b"# %d\n" % i)
    write.root = tmp_path
    return write


def test_the_text_is_the_book_s_and_loads_without_a_warning(text):
    assert text.sha256 == corpus.SHA256
    assert metadata.version("sympy") == corpus.VERSION
    assert text.train.dtype == text.validation.dtype == torch.uint8
    assert text.train.ndim == text.validation.ndim == 1


def test_the_text_is_loaded_once(text):
    assert corpus.load() is text


def test_about_one_byte_in_twenty_is_held_out(text):
    share = len(text.validation) / (len(text.validation) + len(text.train))
    assert 0.03 < share < 0.07


def test_a_separator_stands_between_documents_and_nowhere_else(text):
    for name in ("train", "validation"):
        data = getattr(text, name)
        assert (data == 0).sum() == text.documents[name] - 1
        assert (data != ord("\r")).all()


def test_every_document_is_on_one_side_only(text):
    root = Path(util.find_spec("sympy").origin).parent
    sides = {}
    for name in ("train", "validation"):
        sides[name] = bytes(getattr(text, name).numpy()).split(corpus.SEPARATOR)
    both = {d for d in sides["train"] if len(d) > 200} & set(sides["validation"])
    assert not both
    held_out = (root / "polys/matrices/ddm.py").read_bytes()
    assert held_out in sides["validation"]


def test_documents_come_in_the_order_of_their_paths(source):
    found = corpus.read(source.root)
    paths = sorted(
        p.relative_to(source.root).as_posix() for p in source.root.rglob("*.py")
    )
    for name, held_out in (("train", False), ("validation", True)):
        mine = [p for p in paths if corpus.is_validation(p) == held_out]
        expected = b"\0".join((source.root / p).read_bytes() for p in mine)
        assert bytes(getattr(found, name).numpy()) == expected
        assert found.documents[name] == len(mine)


def test_tests_benchmarks_and_other_files_are_left_out(source):
    before = corpus.read(source.root).sha256
    for path in ("tests/a.py", "x/tests/b.py", "x/benchmarks/y/c.py", "x/d.txt"):
        source(path, b"left out")
    assert corpus.read(source.root).sha256 == before
    source("x/latests/e.py", b"taken in")
    assert corpus.read(source.root).sha256 != before


@pytest.mark.parametrize("newline", [b"\r\n", b"\r"])
def test_newlines_of_other_systems_give_the_same_bytes(source, newline):
    before = corpus.read(source.root).sha256
    for path in source.root.rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", newline))
    assert corpus.read(source.root).sha256 == before


def test_a_file_keeps_its_side_when_others_come(source):
    before = corpus.read(source.root)
    source("another/module.py", WORDS)
    after = corpus.read(source.root)
    held_out = bytes(before.validation.numpy()).split(b"\0")
    assert set(held_out) <= set(bytes(after.validation.numpy()).split(b"\0")) | {WORDS}


def test_a_folder_without_text_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="holds no text"):
        corpus.read(tmp_path)


@pytest.fixture
def fresh():
    """An empty cache before and after, for tests that load something else."""
    corpus.load.cache_clear()
    yield
    corpus.load.cache_clear()


def test_other_bytes_warn_with_both_versions_and_hashes(fresh, source, monkeypatch):
    source("__init__.py", b"")
    other = corpus.read(source.root).sha256
    monkeypatch.setattr(metadata, "version", lambda name: "1.99")
    spec = type("Spec", (), dict(origin=str(source.root / "__init__.py")))
    monkeypatch.setattr(util, "find_spec", lambda name: spec)
    with pytest.warns(UserWarning) as caught:
        assert corpus.load().sha256 == other
    said = str(caught[0].message)
    for part in ("1.99", corpus.VERSION, other[:16], corpus.SHA256[:16]):
        assert part in said
    assert caught[0].filename == __file__


def test_a_missing_sympy_says_what_to_install(fresh, monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install sympy==1\.14\.0"):
        corpus.load()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_batch_holds_stretches_of_the_text_and_the_bytes_after_them():
    data = torch.arange(200, dtype=torch.uint8)  # each byte tells its place
    x, y = corpus.batch(data, 64, 7, generator())
    assert x.shape == y.shape == (64, 7)
    assert x.dtype == y.dtype == torch.int64
    assert y.equal(x + 1)
    assert (x.diff(dim=1) == 1).all()


def test_a_batch_reaches_the_first_byte_and_the_last():
    data = torch.arange(10, dtype=torch.uint8)
    x, y = corpus.batch(data, 500, 4, generator())
    assert (x.min(), x[:, 0].max(), y.max()) == (0, 5, 9)
    x, _ = corpus.batch(data, 3, 9, generator())  # only one place fits
    assert (x == torch.arange(9)).all()


def test_a_batch_depends_on_the_generator_alone():
    data = torch.arange(200, dtype=torch.uint8)
    first, again = (corpus.batch(data, 4, 9, generator(3))[0] for _ in range(2))
    assert first.equal(again)
    assert not first.equal(corpus.batch(data, 4, 9, generator(4))[0])


@steady
@given(N=st.integers(2, 300), T=st.integers(1, 40), data=st.data())
def test_windows_are_distinct_evenly_spaced_and_inside(N, T, data):
    T = min(T, N - 1)
    count = data.draw(st.integers(1, (N - 1) // T))
    x, y = corpus.windows(torch.arange(N), T, count)
    assert x.shape == y.shape == (count, T)
    assert y.equal(x + 1) and y.max() <= N - 1
    assert x.unique().numel() == count * T
    gaps = x[:, 0].diff()
    assert count < 3 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda d: corpus.windows(d, 10, 10), "count=10: .* from 1 to 9"),
        (lambda d: corpus.windows(d, 100, 1), "T=100 needs 101 bytes"),
        (lambda d: corpus.batch(d, 2, 100, generator()), "T=100 needs 101 bytes"),
        (lambda d: corpus.batch(d, 0, 10, generator()), "B=0"),
        (lambda d: corpus.batch(d.float(), 2, 10, generator()), "float32"),
        (lambda d: corpus.batch(d[None], 2, 10, generator()), r"shape \(1, 100\)"),
        (lambda d: corpus.batch(b"text", 2, 10, generator()), "bytes"),
    ],
)
def test_bad_arguments_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call(torch.zeros(100, dtype=torch.uint8))
