"""Uploads for the tests of serving, the one endpoint that they all ask, and its page in a browser."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Page
from stack import Stack, running_stack
from uploads import write_png, write_video, write_wav
from visitor import opened_page

RUNNING = pytest.StashKey[ExitStack]()
"""What `stack` has started."""


@pytest.fixture(scope="session")
def make_video() -> Callable[..., bytes]:
    return write_video


@pytest.fixture(scope="session")
def make_wav() -> Callable[..., bytes]:
    return write_wav


@pytest.fixture(scope="session")
def make_png() -> Callable[..., bytes]:
    return write_png


@pytest.fixture(scope="session")
def stack(request) -> Iterator[Stack]:
    with ExitStack() as running:
        request.session.stash[RUNNING] = running
        yield running.enter_context(running_stack())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    # After the last test that asks the endpoint, and not after the last of all: the others need the machine.
    later = item.session.items[item.session.items.index(item) + 1 :]
    if RUNNING in item.session.stash and not any("stack" in other.fixturenames for other in later):
        item.session.stash[RUNNING].close()


@pytest.fixture
def opened(browser, stack) -> Iterator[Page]:
    """The page on a desktop screen."""
    key = stack.keys_by_scope["admin"]
    yield from opened_page(browser, stack.address, key, viewport={"width": 1440, "height": 900})


@pytest.fixture
def on_phone(browser, stack) -> Iterator[Page]:
    """The same on a phone, in dark mode, with reduced motion."""
    yield from opened_page(
        browser,
        stack.address,
        stack.keys_by_scope["admin"],
        viewport={"width": 390, "height": 844},
        is_mobile=True,
        has_touch=True,
        color_scheme="dark",
        reduced_motion="reduce",
    )
