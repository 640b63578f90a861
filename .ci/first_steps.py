"""What a user does first with an installed dmn, in the present folder. See `.ci/install-extras`.

Every module is imported; `dmn` shows version and help, explains a digit and trains for a moment.
Without the extra `compare`, what needs it has to say so.
"""

import pkgutil
import subprocess
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

from torchvision.utils import save_image

import dmn
from dmn.data import MNIST
from dmn.errors import MissingPackageError

COMPARE = find_spec("torchcam") is not None
EXPLAIN = ("explain", "digit.png", "--model", "mnist_paired")


def run(*args: str) -> subprocess.CompletedProcess[str]:
    """Run a command of dmn, and return what it printed."""
    return subprocess.run(["dmn", *args], capture_output=True, text=True, timeout=900)


def succeed(*args: str) -> str:
    """Run a command of dmn that has to succeed, and return its output."""
    ended = run(*args)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


for module in pkgutil.walk_packages(dmn.__path__, "dmn."):
    if module.name.endswith("__main__"):
        continue
    try:
        import_module(module.name)
    except MissingPackageError:
        if COMPARE:
            raise
assert succeed("--version") == f"dmn {version('dmn')}\n"
assert "explain" in succeed("--help")
digits = MNIST()
digits.setup("test")
save_image(digits.test.images[0], "digit.png")
if COMPARE:
    assert "saved explained.png" in succeed(*EXPLAIN)
else:
    refused = run(*EXPLAIN)
    assert refused.returncode == 1
    assert refused.stderr.endswith("pip install 'dmn[compare]'\n")
    assert refused.stderr.count("\n") == 1
succeed("fit", "--config", "debug")
