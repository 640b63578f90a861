import os
import socket
from pathlib import Path

import pytest

from dmn.data.files import read_mask
from dmn.errors import UnreadableImageError
from dmn.io.pictures import read_picture
from dmn.io.reading import regular


def listen(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


SPECIAL = {
    "a pipe": os.mkfifo,
    "a link to a pipe": lambda path: (
        os.mkfifo(path.with_name("pipe")),
        path.symlink_to(path.with_name("pipe")),
    ),
    "a socket": listen,
    "a device": lambda path: path.symlink_to(os.devnull),
    "a folder": lambda path: path.mkdir(),
}


@pytest.fixture
def special(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # as the paths of sockets are short
    path = Path("a.png")
    SPECIAL[request.param](path)
    return path


@pytest.mark.torture("{special} where a file is asked for", "refused by its name, not waited for")
@pytest.mark.parametrize("special", SPECIAL, indirect=True)
def test_only_regular_files_are_opened(special, happened):
    with pytest.raises(OSError, match="no regular file"):
        regular(special)
    # Of a folder, which people give by mistake, a picture's reader says what to give instead.
    said = "this is a folder; give the image files" if special.is_dir() else ".*no regular file"
    with pytest.raises(UnreadableImageError, match=rf"^a\.png: {said}") as told:
        read_picture(special)
    with pytest.raises(UnreadableImageError, match=rf"^a\.png: {said}"):
        read_mask(special, lambda picture: picture, upright=False)
    happened(str(told.value))


def test_files_and_links_to_them_are_opened(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").symlink_to("a")
    assert regular(tmp_path / "b").read_text() == "a"
    with pytest.raises(FileNotFoundError):
        regular(tmp_path / "none")
