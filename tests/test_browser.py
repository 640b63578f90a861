"""`make test` gets its browser by itself, or stops with one line before any test."""

import subprocess
import sys
from pathlib import Path

import browser
import pytest


@pytest.fixture
def tried(monkeypatch):
    """Let no browser start and no command succeed; return the commands that were tried."""
    commands = []
    monkeypatch.setattr(browser, "fault", lambda: "none starts")
    monkeypatch.setattr(browser, "succeeds", lambda command: commands.append(command) is not None)
    return commands


def by_name(*known):
    return lambda name: f"/somewhere/{name}" if name in known else None


@pytest.mark.parametrize(
    ("known", "user", "expected"),
    [
        (("apt-get",), 0, [["env", "apt-get"], ["playwright"]]),
        (("apt-get", "sudo"), 7, [["sudo"], ["playwright"]]),  # which asks a password
        (("apt-get",), 7, [["playwright"]]),
        ((), 0, [["playwright"]]),
    ],
)
def test_every_way_to_a_browser_is_tried_in_turn(known, user, expected, monkeypatch, tried, capsys):
    monkeypatch.setattr(browser.shutil, "which", by_name(*known))
    monkeypatch.setattr(browser.os, "geteuid", lambda: user)
    with pytest.raises(SystemExit, match=r"need Chromium in PATH: install it .*none starts") as end:
        browser.main()
    assert "\n" not in str(end.value)
    assert len(tried) == len(expected)
    for command, words in zip(tried, expected, strict=True):
        assert set(words) <= set(command)
    assert capsys.readouterr().out.count("a browser for the report's tests:") <= len(tried)


def test_sudo_without_a_password_installs(monkeypatch):
    monkeypatch.setattr(browser.shutil, "which", by_name("apt-get", "sudo"))
    monkeypatch.setattr(browser.os, "geteuid", lambda: 7)
    monkeypatch.setattr(browser, "succeeds", lambda command: True)
    update, install = browser.apt()
    assert update[:2] == install[:2] == ["sudo", "-n"]
    assert install[-3:] == ["install", "-y", "chromium"]


def test_nothing_is_installed_where_a_browser_starts(monkeypatch, tried):
    monkeypatch.setattr(browser, "fault", lambda: "")
    browser.main()
    assert tried == []


def test_the_gate_installs_nothing_itself():
    root = Path(browser.__file__).parent.parent
    gate = (root / ".ci" / "run").read_text()
    assert gate.splitlines()[-1] == "make test"
    assert "install" not in gate.replace("installs nothing", "")
    asked = subprocess.run(
        ["make", "--dry-run", "--always-make", "test", f"PYTHON={sys.executable}"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    order = [asked.index(each) for each in ("--editable", "tests/browser.py", "-m pytest")]
    assert order == sorted(order)
