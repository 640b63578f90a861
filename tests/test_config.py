"""Config files: plain ones are let through, others named with the line at fault."""

from pathlib import Path

import pytest
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from dmn.config import ConfigError, check_config
from dmn.resources import CONFIGS

SHIPPED = sorted(CONFIGS.rglob("*.yaml"))
LAUGHS = "\n".join(
    ["a: &a [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    + [
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ]
)
RAN = "executed"
REFUSED = {
    "nothing in it": (b"", "it holds no options; write some as"),
    "a list": (b"- a\n- b\n", "it holds no options"),
    "one word": (b"words", "it holds no options"),
    "bytes of no text": (b"\xff\xfe\x00trainer", "can't decode byte 0xff"),
    "a null byte": (b"a: \x00", "not allowed"),
    "a tab for an indent": (b"trainer:\n\tmax_epochs: 1\n", r"line 2: found character '\\t'"),
    "a key twice": (b"run:\n  name: a\n  name: b\n", "line 3: 'name' stands twice; keep one"),
    "a key that is a list": (b"? [a]\n: b\n", "line 1: a key is no name"),
    "aliases that expand to 400 million values": (LAUGHS.encode(), "over 10,000 values"),
    "a value within itself": (b"a: &a [*a]\n", "in themselves"),
    "lists in lists, 60 deep": (b"a: " + b"[" * 60 + b"]" * 60, "nested over 50 deep"),
    "lists in lists, 2,000 deep": (b"a: " + b"[" * 2000 + b"]" * 2000, "recursion"),
    "a number of 5,000 digits": (b"a: " + b"9" * 5000, "limit"),
    "a date that is none": (b"a: 2020-13-45", "month must be in"),
    "200 kB": (b"a: " + b"b" * 200_000, "larger than 100,000 bytes"),
    "a Python object": (
        f"a: !!python/object/apply:open [{RAN}, w]".encode(),
        "line 1: .*python/obj",
    ),
    "a tag of its own": (b"a: !mine b", "line 1: .*'!mine'"),
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_are_let_through(path):
    check_config(path)


def test_moderate_aliases_are_let_through(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1, y: [2, 3]}\nb: {<<: *a, x: 2}\nc: [*a, *a]\n")
    check_config(path)


@pytest.mark.torture("a config with {kind}", "refused by name and line, and nothing in it is run")
@pytest.mark.parametrize("kind", REFUSED)
def test_configs_that_are_none_are_named(kind, tmp_path, monkeypatch, happened):
    monkeypatch.chdir(tmp_path)
    content, reason = REFUSED[kind]
    Path("a.yaml").write_bytes(content)
    with pytest.raises(
        ConfigError, match=rf"^a\.yaml: cannot be read as a config \(.*{reason}"
    ) as told:
        check_config("a.yaml")
    assert "\n" not in str(told.value)
    assert not Path(RAN).exists()
    happened(str(told.value))


def test_a_config_that_is_a_folder_or_missing_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(ConfigError, match=str(path)):
            check_config(path)


@st.composite
def broken(draw):
    """A shipped config, some characters of which are changed, cut out, put in or repeated."""
    text = draw(st.sampled_from(SHIPPED)).read_text()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.integers(0, 20))
        other = st.sampled_from(
            ["&a ", "*a", "<<: *a", "!!python/name:os.system ", "\t", text[start:end]]
        )
        text = text[:start] + draw(st.text(max_size=5) | other) + text[end:]
    return text.encode(errors="replace")


@pytest.mark.torture(
    "shipped configs with characters changed, cut and put in",
    "let through or refused by name; never another error",
)
def test_whatever_a_config_holds_it_is_let_through_or_refused(tmp_path, full, happened):
    path, counts = tmp_path / "a.yaml", {"let through": 0, "refused": 0}

    @fuzzed(500 if full else 30)
    @given(broken())
    def check(content):
        path.write_bytes(content)
        try:
            check_config(path)
            outcome = "let through"
        except ConfigError as told:
            outcome = "refused" if str(path) in str(told) else "unnamed"
        counts[outcome] += 1

    check()
    happened(f"{counts['let through']} let through, {counts['refused']} refused")
    assert min(counts.values()) > 0
