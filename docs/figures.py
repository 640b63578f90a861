"""List the figures of README and site: command, commit, and what of their code has changed since.

    python docs/figures.py        # or `make figures`; exit code 1 where one is older than its code

`figures.yaml` has an entry for each picture, and for each group of measured numbers, which a page
marks by `<!-- figures: NAME -->`. A figure is older than its code if a file of `code` has changed
since the commit `made_at`, or since `checked_at`, at which somebody has seen that it still holds.
Docstrings and comments do not count. mkdocs loads this file as a hook: it writes command and commit
below each mark.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

DOCS = Path(__file__).parent
ROOT = DOCS.parent
MARK = re.compile(r"<!-- figures: ([\w-]+) -->")


@dataclass(frozen=True)
class Figure:
    """A picture or a group of numbers.

    Args:
        name: What pages mark it by.
        command: What makes it, with seed and settings where they are not the defaults.
        made_at: Commit that it was made at.
        code: Files and folders that it depends on.
        pictures: Files below docs that it is drawn in.
        checked_at: Later commit at which it was seen to hold.
        check: How that was seen.
    """

    name: str
    command: str
    made_at: str
    code: list[str]
    pictures: list[str] = field(default_factory=list)
    checked_at: str = ""
    check: str = ""

    @property
    def since(self) -> str:
        """The commit from which on its code must be the same."""
        return self.checked_at or self.made_at

    def changed(self) -> list[str]:
        """Return the files of its code that differ from those it was made or checked with."""
        before, now = (files_at(commit, tuple(self.code)) for commit in (self.since, "HEAD"))
        return sorted(
            path
            for path in before.keys() | now.keys()
            if before.get(path) != now.get(path)
            and meaning(self.since, path) != meaning("HEAD", path)
        )


def git(*args: str) -> str:
    """Return what git prints of this repository."""
    return subprocess.run(
        ["git", *args], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


@cache
def files_at(commit: str, code: tuple[str, ...]) -> dict[str, str]:
    """Return the hash of each file of a commit below paths, by path."""
    lines = git("ls-tree", "-r", commit, "--", *code).splitlines()
    return {path: head.split()[2] for head, path in (line.split("\t", 1) for line in lines)}


@cache
def meaning(commit: str, path: str) -> str:
    """Return a file without what does not change figures: docstrings and comments of Python."""
    try:
        text = git("show", f"{commit}:{path}")
    except (subprocess.CalledProcessError, UnicodeDecodeError):
        return ""  # no such file then, or none of text
    if not path.endswith(".py"):
        return text
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [each for each in node.body if not is_text(each)]
    return ast.dump(tree)


def is_text(node: ast.stmt) -> bool:
    """Return whether a statement is a text alone, as docstrings are."""
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


@cache
def figures() -> dict[str, Figure]:
    """Return every figure by its name."""
    # Everything is text: of commits, 1234567 would be a number, and 123e456 infinite.
    entries = yaml.load((DOCS / "figures.yaml").read_text(encoding="utf-8"), yaml.BaseLoader)
    return {name: Figure(name, **entry) for name, entry in entries.items()}


def source(figure: Figure) -> str:
    """Return the line below a figure: what made it, and when."""
    checked = f", checked at {figure.checked_at} ({figure.check})" if figure.checked_at else ""
    return f"`{figure.command}`, at commit {figure.made_at}{checked}"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Write below each mark of a page what made the figures that it marks."""
    known = figures()
    if unknown := set(MARK.findall(markdown)) - known.keys():
        raise LookupError(f"figures.yaml has no {', '.join(sorted(unknown))}")
    if "<!-- all figures -->" in markdown:
        rows = (f"| {name} | {source(figure)} |" for name, figure in known.items())
        markdown = markdown.replace("<!-- all figures -->", "\n".join(rows))
    return MARK.sub(
        lambda mark: f"Made by {source(known[mark[1]])}.\n{{ .figure-source }}\n", markdown
    )


def report() -> Iterator[tuple[Figure, str]]:
    """Yield each figure with what has changed since, or nothing."""
    for figure in figures().values():
        changed = figure.changed()
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        yield figure, ", ".join(changed[:3]) + more


def main() -> int:
    """Print a line for each figure, and return 1 where one is older than its code."""
    stale = 0
    for figure, changed in report():
        stale += bool(changed)
        print(f"{'older than its code' if changed else 'holds':20} {figure.since} {figure.name}")
        print(f"{'':20} {figure.command}")
        if changed:
            print(f"{'':20} changed since: {changed}")
    return int(stale > 0)


if __name__ == "__main__":
    sys.exit(main())
