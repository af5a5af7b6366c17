"""Chromium as the page tests start it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def missing(reason: str) -> NoReturn:
    """Skip, or fail where the environment says that a browser must be there."""
    if os.environ.get("BIKD_REQUIRE_BROWSER") == "1":
        pytest.fail(f"BIKD_REQUIRE_BROWSER=1, but {reason}")
    pytest.skip(f"{reason}: the report is not tried in a browser")


@contextmanager
def chromium() -> "Iterator[Browser]":
    """A browser without a window, for as long as the context lasts."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        missing("the package playwright is not installed")
    if not Path(CHROMIUM).exists():
        missing(f"{CHROMIUM} is not there (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def number(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
