"""Config files: plain ones are let through, others named with the line at fault."""

import os
from pathlib import Path

import pytest
import yaml
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse.typing import Path as FoundPath

from dmn.cli.config import read_config
from dmn.cli.main import main
from dmn.errors import OptionError
from dmn.io.resources import CONFIGS

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
    read_config(path)


def test_moderate_aliases_are_let_through(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1, y: [2, 3]}\nb: {<<: *a, x: 2}\nc: [*a, *a]\n")
    read_config(path)


@pytest.mark.torture("a config with {kind}", "refused by name and line, and nothing in it is run")
@pytest.mark.parametrize("kind", REFUSED)
def test_configs_that_are_none_are_named(kind, tmp_path, monkeypatch, happened):
    monkeypatch.chdir(tmp_path)
    content, reason = REFUSED[kind]
    Path("a.yaml").write_bytes(content)
    with pytest.raises(
        OptionError, match=rf"^a\.yaml: cannot be read as a config \(.*{reason}"
    ) as told:
        read_config("a.yaml")
    assert "\n" not in str(told.value)
    assert not Path(RAN).exists()
    happened(str(told.value))


def nested(path):
    """Ways to name a file of the trainer's options."""
    Path("outer.yaml").write_text(f"trainer: {path}\n")
    Path("inner.yaml").write_text(f"config: {path}\n")
    return {
        "as an option": ["--trainer", str(path)],
        "in a config": ["--config", "outer.yaml"],
        "by `config`": ["--config", "inner.yaml"],
    }


@pytest.mark.torture("a key twice in a config named {how}", "refused by file and line")
@pytest.mark.parametrize("how", ["as an option", "in a config", "by `config`"])
def test_nested_configs_are_looked_through(how, tmp_path, monkeypatch, happened):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("max_epochs: 1\nmax_epochs: 2\n")
    with pytest.raises(SystemExit, match=r"a\.yaml: .*line 2: 'max_epochs' stands twice") as told:
        main(["fit", "--config", "debug", *nested("a.yaml")[how], "--print_config"])
    happened(str(told.value).replace(str(tmp_path), ""))


@pytest.mark.torture("a pipe instead of a config, named {how}", "refused by its name")
@pytest.mark.parametrize("how", ["as an option", "in a config", "by `config`"])
def test_pipes_are_no_configs(how, tmp_path, monkeypatch, happened):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("a.yaml")
    with pytest.raises(SystemExit, match=r"a\.yaml: .*no regular file") as told:
        main(["fit", "--config", "debug", *nested("a.yaml")[how], "--print_config"])
    happened(str(told.value).replace(str(tmp_path), ""))


@pytest.mark.torture("a config at an address, named {how}", "refused; nothing is asked for it")
@pytest.mark.parametrize("how", ["as an option", "in a config", "by `config`"])
def test_configs_are_not_fetched(how, tmp_path, monkeypatch, capsys, happened):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("fsspec.open", lambda *args, **options: asked.append(args))
    address = nested("https://127.0.0.1/a.yaml")[how]
    with pytest.raises(SystemExit):
        main(["fit", "--config", "debug", *address, "--print_config"])
    told = capsys.readouterr().err.strip()
    assert "https://127.0.0.1/a.yaml" in told
    assert not asked
    happened(told.splitlines()[-1])


def test_nested_configs_are_read_as_utf_8_and_stray_files_are_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    read = FoundPath.read_text
    for name in ("torch.optim.SGD", "auto", "dmn.data.MNIST"):
        Path(name).write_text("strange")
    Path("run.yaml").write_text("name: Grüße\n", encoding="utf-8")
    options = ["--run", "run.yaml", "--model.optimizer", "torch.optim.SGD"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "debug", *options, "--data=dmn.data.MNIST", "--print_config"])
    assert stopped.value.code == 0
    told = yaml.safe_load(capsys.readouterr().out)
    assert told["run"]["name"] == "Grüße"
    assert told["model"]["optimizer"]["class_path"] == "torch.optim.SGD"
    assert told["data"]["class_path"] == "dmn.data.MNIST"
    assert FoundPath.read_text is read


def test_a_config_that_is_a_folder_or_missing_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(OptionError, match=str(path)):
            read_config(path)


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
            read_config(path)
            outcome = "let through"
        except OptionError as told:
            outcome = "refused" if str(path) in str(told) else "unnamed"
        counts[outcome] += 1

    check()
    happened(f"{counts['let through']} let through, {counts['refused']} refused")
    assert min(counts.values()) > 0


def test_terms_of_all_configs_count_and_the_last_one_of_a_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    term = "{class_path: dmn.train.SensitivityPenalty, init_args: {weight: %s}}"
    Path("a.yaml").write_text(f"model: {{terms: {{one: {term % 1}, two: {term % 2}}}}}")
    Path("b.yaml").write_text(f"model: {{terms: {{two: {term % 3}, three: {term % 4}}}}}")
    Path("none.yaml").write_text("model: {terms: {}}")

    def weights(*names):
        configs = [word for name in ("debug", *names) for word in ("--config", name)]
        with pytest.raises(SystemExit):
            main(["fit", *configs, "--print_config"])
        terms = yaml.safe_load(capsys.readouterr().out)["model"]["terms"] or {}
        return {name: term["init_args"]["weight"] for name, term in terms.items()}

    assert weights("a.yaml", "b.yaml") == {"one": 1, "two": 3, "three": 4}
    assert weights("b.yaml", "a.yaml") == {"one": 1, "two": 2, "three": 4}
    assert weights("a.yaml", "none.yaml", "b.yaml") == {"two": 3, "three": 4}
    Path("b.yaml").write_text("model: 3")
    with pytest.raises(SystemExit):
        main(["fit", "--config", "debug", "--config", "a.yaml", "--config", "b.yaml"])
