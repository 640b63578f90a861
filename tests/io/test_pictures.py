"""Picture files as people have them, and as nobody should open them."""

import io
import os
import resource
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dmn.errors import UnreadableImageError
from dmn.io.pictures import read_picture

WIDE = np.zeros((30, 40, 3), np.uint8)  # red above; below blue on the left, a ramp on the right
WIDE[:15, :, 0] = 255
WIDE[15:, :20, 2] = 255
WIDE[15:, 20:] = np.linspace(0, 255, 20)[:, None]
SCENE = Image.fromarray(WIDE)
EXACT = {"PNG": {}, "TIFF": {}, "BMP": {}, "WEBP": {"lossless": True}}
SAVED = {**EXACT, "GIF": {}, "JPEG": {"quality": 95}}
ORIENTATION = 0x0112
MEMORY = 100_000  # KiB that refusing a picture may take


def png(width, height, channels=1, bits=1, rows=b""):
    """Write a PNG by hand; rows are black unless given."""

    def chunk(kind, content):
        held = kind + content
        return struct.pack(">I", len(content)) + held + struct.pack(">I", zlib.crc32(held))

    kind = {1: 0, 3: 2}[channels]
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + (width * bits * channels + 7) // 8)
    body = [packer.compress(rows)] if rows else [packer.compress(row) for _ in range(height)]
    body.append(packer.flush())
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", b"".join(body)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def saved(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def error(read):
    """Return how many grey levels a picture is off the scene, in the mean."""
    assert (read.mode, read.size) == ("RGB", SCENE.size)
    return np.abs(np.asarray(read, int) - WIDE).mean()


SIXTEEN = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in WIDE)
FRAMES = {"save_all": True, "append_images": [SCENE.transpose(Image.Transpose.ROTATE_180)]}
AS_SEEN = {
    "CMYK JPEG": saved(SCENE.convert("CMYK"), "JPEG", quality=95),
    "CMYK TIFF": saved(SCENE.convert("CMYK"), "TIFF"),
    "palette PNG": saved(SCENE.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
    "opaque RGBA WebP": saved(SCENE.convert("RGBA"), "WEBP", lossless=True),
    "16-bit RGB PNG": png(40, 30, 3, 16, SIXTEEN),
    "animated GIF": saved(SCENE, "GIF", **FRAMES),
    "animated PNG": saved(SCENE, "PNG", **FRAMES),
    "animated WebP": saved(SCENE, "WEBP", lossless=True, **FRAMES),
    "TIFF of two pages": saved(SCENE, "TIFF", **FRAMES),
    "PNG called .jpg": saved(SCENE, "PNG"),
}


@pytest.mark.torture("a picture, {kind}", "it is read as a person sees it, the first frame")
@pytest.mark.parametrize("kind", AS_SEEN)
def test_pictures_of_every_kind_are_read_as_they_are_seen(kind, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(AS_SEEN[kind])
    assert error(read_picture(path)) < (20 if "P" in kind or "GIF" in kind else 1)


@pytest.mark.torture("a grey picture, {kind}", "its greys are those seen, white at the top")
@pytest.mark.parametrize("kind", ["1-bit", "8-bit", "LA", "16-bit PNG", "16-bit TIFF"])
def test_greys_keep_their_scale(kind, tmp_path):
    ramp = np.tile(np.array([0, 64, 128, 255], np.uint8), (3, 1))
    deep = Image.fromarray(ramp.astype(np.uint16) * 257)
    made = {"1-bit": "1", "8-bit": "L", "LA": "LA"}
    picture = Image.fromarray(ramp).convert(made[kind]) if kind in made else deep
    path = tmp_path / f"a.{'tiff' if kind == '16-bit TIFF' else 'png'}"
    picture.save(path)
    read = np.asarray(read_picture(path))
    assert (read == read[..., :1]).all()
    assert read[:, [0, 3], 0].tolist() == [[0, 255]] * 3
    assert kind == "1-bit" or (read[..., 0] == ramp).all()


TRANSPARENT = {
    "RGBA": saved(Image.new("RGBA", (4, 3), (9, 9, 9, 0)), "PNG"),
    "LA": saved(Image.new("LA", (4, 3), (9, 0)), "PNG"),
    "a palette of transparent colours": saved(
        Image.new("P", (4, 3)), "PNG", transparency=bytes(256)
    ),
    "a transparent colour of a GIF": saved(Image.new("P", (4, 3)), "GIF", transparency=0),
    "a transparent grey": saved(Image.new("L", (4, 3), 7), "PNG", transparency=7),
}


@pytest.mark.torture("a transparent picture: {kind}", "it becomes white, as on paper")
@pytest.mark.parametrize("kind", TRANSPARENT)
def test_what_is_transparent_becomes_white(kind, tmp_path):
    (tmp_path / "a.png").write_bytes(TRANSPARENT[kind])
    assert np.asarray(read_picture(tmp_path / "a.png")).min() == 255


@pytest.mark.torture("a picture turned by EXIF orientation {tag}", "it is read upright")
@pytest.mark.parametrize("tag", range(1, 9))
def test_pictures_are_read_the_right_way_up(tag, tmp_path):
    turn = Image.Transpose
    stored_as = [
        None,
        turn.FLIP_LEFT_RIGHT,
        turn.ROTATE_180,
        turn.FLIP_TOP_BOTTOM,
        turn.TRANSPOSE,
        turn.ROTATE_90,
        turn.TRANSVERSE,
        turn.ROTATE_270,
    ][tag - 1]
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    stored = SCENE if stored_as is None else SCENE.transpose(stored_as)
    stored.save(tmp_path / "a.png", exif=exif)
    assert error(read_picture(tmp_path / "a.png")) == 0
    assert read_picture(tmp_path / "a.png", upright=False).size == stored.size


PIXEL = Image.new("RGB", (1, 1), "red")
REFUSED = {
    "an empty file": (b"", "cannot identify"),
    "text": (b"hello", "cannot identify"),
    "half a PNG": (saved(SCENE, "PNG")[:100], "truncated"),
    "half a JPEG": (saved(SCENE, "JPEG")[:700], "truncated"),
    "half a GIF": (saved(SCENE, "GIF")[:160], "truncated"),
    "a directory": (None, "this is a folder; give the image files in it"),
    "no file": (None, "there is no such file$"),
    "a broken link": (None, "cannot be read as an image .*No such file"),
    "PostScript": (saved(SCENE, "EPS"), "it is EPS; save it as PNG or JPEG"),
    "32-bit grey": (saved(Image.new("I", (4, 3)), "TIFF"), "mode is I; save it with 8 or 16"),
    "grey as floats": (saved(Image.new("F", (4, 3)), "TIFF"), "mode is F; save it with 8 or 16"),
    "20,000 x 1 pixels": (png(20_000, 1), "20000 x 1 pixels, over 100 times .*; crop it"),
    "10 x 20,000 pixels": (png(10, 20_000), "10 x 20000 pixels, over 100 times .*; crop it"),
    "a PNG of 50,000 x 50,000": (
        png(50_000, 50_000, rows=bytes(9)),
        r"\(2500000000 pixels\) exceeds",
    ),
    "a PNG of 10,000 x 10,000": (
        png(10_000, 10_000, rows=bytes(9)),
        r"\(100000000 pixels\) exceeds",
    ),
}
NO_FILE = ("a directory", "no file")


@pytest.mark.torture("a picture file that is {kind}", "it is refused by its name, at little memory")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_picture_is_named(kind, tmp_path, happened):
    content, reason = REFUSED[kind]
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a broken link":
        path.symlink_to("nowhere.jpg")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableImageError, match=rf"{path}: .*{reason}") as told:
        read_picture(path)
    assert ("cannot be read as an image" in str(told.value)) == (kind not in NO_FILE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
    happened(str(told.value).replace(str(tmp_path), ""))


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (20_000, 200)])
def test_small_and_long_pictures_are_read(size, tmp_path):
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").size == size


@pytest.mark.torture("a picture called {name!r}", "it is read")
@pytest.mark.parametrize("name", ["ü名 🐱", "a\nb", "q'\"$(x)", "<b>&", b"\xff"])
def test_names_may_be_odd(name, tmp_path):
    path = tmp_path / os.fsdecode(name)
    SCENE.save(path, "PNG")
    assert error(read_picture(path)) == 0


@st.composite
def broken(draw):
    """A picture in some format, some bytes of which are changed, cut out or put in."""
    form = draw(st.sampled_from(sorted(SAVED)))
    content = bytearray(saved(SCENE, form, **SAVED[form]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = start + draw(st.sampled_from([0, 1, 4, 1000]))
        content[start:end] = draw(st.binary(max_size=8))
    return form, bytes(content)


@pytest.mark.torture(
    "PNG, JPEG, GIF, WebP, TIFF and BMP with bytes changed, cut and put in",
    "an RGB picture, or a refusal by name; never another error or a warning",
)
def test_whatever_bytes_a_file_holds_it_is_a_picture_or_refused(tmp_path, full, happened):
    counts = {"read": 0, "refused": 0}

    @fuzzed(2000 if full else 60)
    @given(broken())
    def read(made):
        path = Path(tmp_path, f"a.{made[0].lower()}")
        path.write_bytes(made[1])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                outcome = read_picture(path).mode
            except UnreadableImageError as told:
                outcome = str(told)
        assert outcome == "RGB" or str(path) in outcome
        counts["read" if outcome == "RGB" else "refused"] += 1

    read()
    happened(f"{counts['read']} read, {counts['refused']} refused")
    assert min(counts.values()) > 0
