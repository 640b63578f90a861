"""Comparing explanations: what is compared, its scores, their statistics, the report."""

from importlib import import_module

from dmn.baselines.base import required

with required(
    "pandas, pyarrow and jinja2"
):  # before anything is scored, not when the report is written
    for _library in ("pandas", "pyarrow", "jinja2"):
        import_module(_library)

from dmn.compare.comparison import Comparison
from dmn.compare.images import ComparedImages
from dmn.compare.plan import Entry, Source, entries
from dmn.compare.report import Gallery, write_report
from dmn.compare.suite import Budget, Suite
from dmn.compare.summary import ranks, summarise

__all__ = [
    "Budget",
    "ComparedImages",
    "Comparison",
    "Entry",
    "Gallery",
    "Source",
    "Suite",
    "entries",
    "ranks",
    "summarise",
    "write_report",
]
