"""Execute the notebooks of the documentation; as a program, anew and in place.

python tests/notebooks.py                              # all of docs/tutorials
python tests/notebooks.py docs/tutorials/train_network.ipynb
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs/tutorials").glob("*.ipynb"))
SECONDS = 600  # for a cell; a notebook takes less than a minute where nothing else runs

OFFLINE = """
import socket
connect = socket.socket.connect
def guarded(self, address):
    if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
        raise OSError(f"notebooks run offline; refused to connect to {address}")
    return connect(self, address)
socket.socket.connect = guarded
"""


def execute(path, folder):
    """Return a notebook with new outputs; raises where a cell fails.

    Args:
        path: The notebook.
        folder: An empty folder to run in. The kernel sees the packages and the tree, and nothing
            beyond this machine.
    """
    (folder / "sitecustomize.py").write_text(OFFLINE)
    work = folder / "work"
    work.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # transformers asks for a widget
    }
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(work)}},
    )
    return client.execute(env=environment)


def main(paths):
    """Execute notebooks in place."""
    for path in paths:
        kept = nbformat.read(path, as_version=4).metadata
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        notebook.metadata = kept
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or NOTEBOOKS)
