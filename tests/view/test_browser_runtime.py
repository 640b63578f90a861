"""onnxruntime-web is fetched once, and is what was published or nothing."""

import hashlib
import io
import tarfile
from base64 import b64encode

import pytest

from dmn.errors import MissingPackageError
from dmn.view import runtime
from dmn.view.runtime import browser_runtime


def package(files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry in a folder, with a package of two small files."""
    files = {"a.mjs": b"script", "b.wasm": b"module"}
    content = package(files)
    folder = tmp_path / "registry" / runtime.NAME / "-"
    folder.mkdir(parents=True)
    file = folder / f"{runtime.NAME}-{runtime.VERSION}.tgz"
    file.write_bytes(content)
    monkeypatch.setenv("npm_config_registry", (tmp_path / "registry").as_uri() + "/")
    digest = b64encode(hashlib.sha512(content).digest()).decode()
    monkeypatch.setattr(runtime, "INTEGRITY", f"sha512-{digest}")
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    monkeypatch.setattr(runtime, "MEMBERS", hashes)
    return file


def test_it_is_fetched_once_and_again_where_it_is_damaged(registry, tmp_path):
    kept = tmp_path / "kept"
    expected = {"a.mjs": b"script", "b.wasm": b"module"}
    assert browser_runtime(kept) == expected
    content = registry.read_bytes()
    registry.unlink()
    assert browser_runtime(kept) == expected
    (kept / "b.wasm").write_bytes(b"cut")
    with pytest.raises(MissingPackageError, match="cannot be fetched from npm"):
        browser_runtime(kept)
    registry.write_bytes(content)
    assert browser_runtime(kept) == expected
    assert (kept / "b.wasm").read_bytes() == b"module"


@pytest.mark.torture("a package of npm that was changed on its way", "it is refused, and not kept")
def test_a_changed_package_is_refused(registry, tmp_path):
    registry.write_bytes(package({"a.mjs": b"other", "b.wasm": b"module"}))
    with pytest.raises(MissingPackageError, match="not what npm published"):
        browser_runtime(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_it_is_kept_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime.cache_folder().is_relative_to(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert runtime.cache_folder().parts[-3] == ".cache"
