"""The browser that the report's tests drive, and how `make test` gets one.

`python tests/browser.py` finds a Chromium that starts: in PATH; else by apt, where that needs no
password; else by playwright's own download. Failing all, it says in one line what to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Error, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESK = {"width": 1280, "height": 900}
DOWNLOAD = [sys.executable, "-m", "playwright", "install", "chromium"]


@contextmanager
def launched() -> Iterator[Browser]:
    """Start the browser in PATH or, where there is none, the one that playwright downloaded."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def visits(
    browser: Browser, ready: str = "body", schemes: tuple[str, ...] = ("file:", "data:")
) -> Iterator[Callable[..., Page]]:
    """Give a function that opens a file; afterwards nothing may have been said or fetched.

    Args:
        browser: Of `launched`.
        ready: A selector of what a page shows when it can be looked at.
        schemes: Of what a page may ask for.
    """
    said: list[str] = []
    asked: list[str] = []
    pages: list[Page] = []

    def visit(path: Path, **options: Any) -> Page:
        page = browser.new_page(**{"viewport": DESK, **options})
        pages.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.locator(ready).wait_for()
        return page

    yield visit
    for page in pages:
        page.close()
    assert said == []
    assert all(url.startswith(schemes) for url in asked)
    assert sum(url.startswith("file:") for url in asked) == len(pages)


def fault() -> str:
    """Return why no browser starts, or nothing."""
    try:
        with launched():
            return ""
    except Error as error:
        return str(error).strip().partition("\n")[0]


def apt() -> list[list[str]]:
    """Return the commands that install Chromium by apt; none where that would ask a password."""
    if not shutil.which("apt-get"):
        return []
    rights = ["sudo", "-n"] if os.geteuid() else []
    if rights and not (shutil.which("sudo") and succeeds([*rights, "true"])):
        return []
    quiet = [*rights, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    return [[*quiet, "update"], [*quiet, "install", "-y", "chromium"]]


def succeeds(command: list[str]) -> bool:
    """Run a command without showing what it prints."""
    return not subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode


def main() -> None:
    """Install a browser if none starts.

    Raises:
        SystemExit: says in one line what to install.
    """
    for commands in ([], apt(), [DOWNLOAD]):
        for command in commands:
            print("a browser for the report's tests:", *command, flush=True)
            if not succeeds(command):
                break
        if not (reason := fault()):
            return
    sys.exit(
        "the report's tests need Chromium in PATH: install it (Debian: apt install chromium; "
        f"others: python -m playwright install chromium), then run again ({reason})"
    )


if __name__ == "__main__":
    main()
