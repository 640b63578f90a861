"""onnxruntime-web, which runs an exported network in a browser: fetched once, and kept.

It is a package of npm under the MIT licence, and no part of dmn. What is fetched is checked by the
hash that npm publishes, and what is kept by its own.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from dmn.errors import MissingPackageError
from dmn.io.text import one_line
from dmn.io.writing import write_whole

NAME, VERSION = "onnxruntime-web", "1.30.0"
REGISTRY = "https://registry.npmjs.org"
INTEGRITY = (  # of npm
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
MEMBERS = {  # SHA-256 by file
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
SECONDS = 60.0  # without an answer


def browser_runtime(folder: str | Path | None = None) -> dict[str, bytes]:
    """Return onnxruntime-web's script and its WebAssembly module.

    They are fetched from npm (33 MB) unless they were before. The environment variable
    `npm_config_registry` names another registry.

    Args:
        folder: Where they are kept; by default a folder in the user's cache.

    Returns:
        The content of each file of `MEMBERS`.

    Raises:
        MissingPackageError: if they cannot be fetched, or are not what was published.
    """
    kept = Path(folder or cache_folder())
    found = _kept(kept)
    if found is None:
        found = _members(_fetch())
        for name, content in found.items():
            write_whole(kept / name, content)
    return found


def cache_folder() -> Path:
    """Return where onnxruntime-web is kept: in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dmn", f"{NAME}-{VERSION}"
    )


def _kept(folder: Path) -> dict[str, bytes] | None:
    """Return what is kept, or None if something is missing or damaged."""
    try:
        found = {name: (folder / name).read_bytes() for name in MEMBERS}
    except OSError:
        return None
    return None if _changed(found) else found


def _changed(files: Mapping[str, bytes]) -> list[str]:
    return [
        name for name, data in files.items() if hashlib.sha256(data).hexdigest() != MEMBERS[name]
    ]


def _fetch() -> bytes:
    """Return the package from npm, checked by the hash that npm publishes."""
    registry = os.environ.get("npm_config_registry") or REGISTRY  # noqa: SIM112 - npm's own name
    url = f"{registry.rstrip('/')}/{NAME}/-/{NAME}-{VERSION}.tgz"
    try:
        with urlopen(url, timeout=SECONDS) as answer:
            content: bytes = answer.read()
    except (URLError, OSError, ValueError) as error:
        raise MissingPackageError(
            f"{NAME} {VERSION} cannot be fetched from npm: {one_line(error)}"
        ) from error
    if f"sha512-{b64encode(hashlib.sha512(content).digest()).decode()}" != INTEGRITY:
        raise MissingPackageError(f"{NAME} {VERSION}: what was fetched is not what npm published")
    return content


def _members(package: bytes) -> dict[str, bytes]:
    """Return the files of `MEMBERS` from the package; nothing is unpacked to the disk."""
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        found = {}
        for name in MEMBERS:
            member = archive.extractfile(f"package/dist/{name}")
            if member is None:
                raise MissingPackageError(f"{NAME} {VERSION} has no {name}")
            found[name] = member.read()
    if changed := _changed(found):
        raise MissingPackageError(f"{NAME} {VERSION}: {changed[0]} is not what was published")
    return found
