"""What tests share: one thread for small models, a private build, a Chromium."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from book_checks import ROOT, contexts_of, visit
from hypothesis import settings
from playwright.sync_api import Error, sync_playwright

from tools.pdf import CHROMIUM

# A slow machine is no fault, and a second run draws the same examples.
settings.register_profile("book", deadline=None, derandomize=True)
settings.load_profile("book")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def one_thread():
    """Models this small are slower on two threads, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Path:
    """The folder of the built HTML: a build of its own, warnings are errors."""
    out = tmp_path_factory.mktemp("book")
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(ROOT)]
    options = ["--path-output", str(out), "--all", "-W", "-n", "--keep-going", "-q"]
    build = subprocess.run([*command, *options], capture_output=True, text=True)
    if build.returncode:
        pytest.fail(f"the book does not build:\n{build.stdout}\n{build.stderr}", False)
    return out / "_build" / "html"


@pytest.fixture(scope="module")
def browser():
    """One Chromium for a module; a test is skipped without one, but not in CI.

    Not for the session: playwright keeps an event loop running while it is open, in
    which no other test could start its own.
    """
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, CHROMIUM)), None)
        try:
            browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        except Error as error:
            stop = pytest.fail if os.environ.get("CI") else pytest.skip
            stop(f"no browser to test the book in, install chromium: {error.message}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def contexts(browser):
    """Browser windows without a network: light, dark on a phone, and a phone."""
    return contexts_of(browser)


@pytest.fixture
def opened(contexts):
    """Opens pages to be altered, closes them after the test."""
    seen = []

    def open_page(view, path):
        seen.append(visit(contexts[view], path))
        return seen[-1]

    yield open_page
    for one in seen:
        one.page.close()
