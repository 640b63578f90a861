"""The base of every error that dmn raises for what it was asked to do."""


class DmnError(Exception):
    """Something that cannot be done as asked; the message names what, and says what would work.

    Each argument is a line of the message.
    """

    @property
    def lines(self) -> list[str]:
        """The message, without what KeyError or a process that loads data adds."""
        first, *others = map(str, self.args or ("",))
        if first.startswith(f"Caught {type(self).__name__} in "):  # and then a traceback
            first = first.rpartition(f"{type(self).__name__}: ")[2].strip()
        return [first, *others]

    def __str__(self) -> str:
        return "\n".join(self.lines)
