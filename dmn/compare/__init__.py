"""Compare explanations by metrics, with statistics, tables and a report.

`Comparison` does all of it, as `dmn compare` does. The other names are its steps: `entries` lists
what is compared, `Suite` scores it within a `Budget`, `summarise` and `ranks` condense the scores,
and `write_report` writes the page. This package needs `pip install 'dmn[compare]'`.
"""

from importlib import import_module

from dmn.errors import required

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
