"""Networks rewritten into equal ones that attribution by rules is defined for."""

from dmn.canonize.folding import canonize, canonized, hookable

__all__ = ["canonize", "canonized", "hookable"]
