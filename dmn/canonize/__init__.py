"""Networks rewritten into equal ones that attribution by rules is defined for."""

from dmn.canonize.folding import canonize, canonized, hookable
from dmn.canonize.report import FoldingReport, folding_report

__all__ = ["FoldingReport", "canonize", "canonized", "folding_report", "hookable"]
