"""What README and the pages of the documentation show runs as they show it.

Blocks of Python are run in order, as one program for each page; commands of bash are run by the
shell. A comment above a block says where it is otherwise:

    <!-- tested by: tests/test_first_steps.py -->    another test runs it, which names the page
    <!-- with: --trainer.fast_dev_run true -->       the test adds this to each command of the block
    <!-- slow, with: --budget.test 2 -->             likewise, in `make test-all` only
    <!-- not run: needs an account -->               it cannot be run here, and why

Lines in between that begin a file (`# nets.py`) are written instead of run. Research notes are not
run: they say what was done at a commit.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *(
        path
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if "research" not in path.relative_to(ROOT).parts
    ),
]
QUICK = (None, "with")
ALL = (*QUICK, "slow, with")
SLOW = {  # pages whose commands and calls other pages show as well
    *("docs/index.md", "docs/networks.md", "docs/architectures.md", "docs/reference/cli.md"),
    *("docs/how_to/fine_tune.md", "docs/how_to/scale.md", "docs/how_to/wandb.md"),
    *("docs/how_to/compare.md", "docs/concepts/canonization.md", "docs/concepts/guarantees.md"),
    *("docs/concepts/relevance.md", "docs/concepts/evaluation.md", "docs/methods.md"),
}
BLOCK = re.compile(
    r"(?:^<!-- (?P<kind>tested by|tested|with|slow, with|not run): (?P<what>[^\n]*?) -->\n+)?"
    r"^```(?P<language>python|bash)\n(?P<code>.*?)^```$",
    re.M | re.S,
)


class Block(NamedTuple):
    kind: str | None
    what: str
    language: str
    code: str


def blocks(page):
    return [
        Block(found["kind"], found["what"] or "", found["language"], found["code"])
        for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]


def name(page):
    return page.relative_to(ROOT).as_posix()


def program(page, kinds):
    """Return what runs a page: files that it writes, its Python, and commands between them."""
    lines = []
    for block in blocks(page):
        if block.kind not in kinds:
            continue
        if block.language == "bash":
            commands = block.code.replace("\\\n", " ").splitlines()
            lines += [
                f"__run__({command.split('  #')[0] + ' ' + block.what!r})"
                for command in commands
                if command.strip() and not command.startswith("#")
            ]
        elif file := re.match(r"# (\w+\.py)\n", block.code):
            lines.append(f"__write__({file[1]!r}, {block.code!r})")
        else:
            lines.append(block.code)
    return "\n".join(lines)


PRELUDE = """
import glob, shlex, subprocess, sys
from pathlib import Path
def __run__(command):
    program, *words = shlex.split(command)
    if program != "dmn":
        subprocess.run(command, shell=True, check=True)
        return
    from dmn.cli.main import main  # in this process, which has imported what takes seconds
    try:
        main([found for word in words for found in glob.glob(word) or [word]])
    except SystemExit as ended:
        assert not ended.code, f"{command}: {ended.code}"
def __write__(name, text):
    Path(name).write_text(text)
sys.path.insert(0, "")
"""


@pytest.mark.parametrize(
    ("page", "kinds"),
    [
        *(
            pytest.param(page, QUICK, marks=pytest.mark.slow if name(page) in SLOW else ())
            for page in PAGES
            if program(page, QUICK)
        ),
        *(
            pytest.param(page, ALL, marks=pytest.mark.slow)
            for page in PAGES
            if program(page, ALL) != program(page, QUICK)
        ),
    ],
    ids=lambda value: name(value) if isinstance(value, Path) else value[-1],
)
def test_the_blocks_of_a_page_run(page, kinds, tmp_path):
    (tmp_path / "page.py").write_text(PRELUDE + program(page, kinds), encoding="utf-8")
    for folder in ("recipes", "configs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "WANDB_MODE": "offline",
    }
    ended = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_is_not_run_here_is_tested_elsewhere_or_says_why(page):
    for block in blocks(page):
        if block.kind == "tested by":
            test = ROOT / block.what
            assert test.is_file(), f"{name(page)}: no test {block.what}"
            assert page.name in test.read_text(encoding="utf-8"), f"{block.what}: not {page.name}"
        assert block.kind not in ("with", "slow, with") or block.language == "bash"
        assert block.kind != "not run" or len(block.what) > 8, f"{name(page)}: why not?"


def test_the_demo_runs_the_commands_that_the_readme_shows():
    commands = subprocess.run(
        ["make", "--dry-run", "demo"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    (shown,) = (
        block for block in blocks(ROOT / "README.md") if "dmn fit --config mnist" in block.code
    )
    for command in shown.code.splitlines():
        assert f"bin/{command}\n" in commands
