"""Networks rewritten into equal ones that the rules of attribution are defined for."""

from dmn.canonize.folding import canonize, canonized, hookable

__all__ = ["canonize", "canonized", "hookable"]
