"""The Chromium that reads the pages, and what is said where there is none."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from waiting import patience

MISSING = "Chromium is not installed (Debian's package: chromium)"


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser. Without Chromium the test is skipped, or fails where CI is set: there it has to run."""
    chromium = shutil.which("chromium")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    expect.set_options(timeout=patience(30_000))
    with sync_playwright() as playwright:
        # The sandbox wants rights that root in a container has not.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
