"""Runs Python where one folder is a disk of a few megabytes, which can be full or read-only.

In a mount namespace of its own, so that nothing is left behind: permissions do not stop root.
"""

import os
import shutil
import subprocess
import sys

import pytest

PRELUDE = """
import os, subprocess, sys
from pathlib import Path

disk = Path({disk!r})

def fill(left=0):
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            file.truncate(file.tell() - left)

def make_read_only(folder=disk):
    # what is mounted anew has no open files, which would forbid it
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)

def said(command, *args):
    try:
        command(*args)
    except SystemExit as error:
        return str(error.code)
    return "nothing"

"""


def run_on_disk(tmp_path, code, megabytes):
    """Run code that has `disk`, `fill`, `make_read_only` and `said`; return what it printed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = tmp_path / "script.py"
    script.write_text(PRELUDE.format(disk=str(disk)) + code)
    options = f"size={megabytes}m"
    namespace = ["unshare", "--map-root-user", "--mount"]
    no_such_tool = shutil.which("unshare") is None
    if no_such_tool or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount")
    shell = f'mount -t tmpfs -o {options} none "{disk}" && exec "{sys.executable}" "{script}"'
    done = subprocess.run(
        [*namespace, "sh", "-c", shell],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
