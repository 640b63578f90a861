"""The base of every error that dmn raises for what it was asked to do."""


class DmnError(Exception):
    """Something that cannot be done as asked; the message names what, and says what would work."""

    def __str__(self) -> str:
        """Show the message plainly, without what KeyError or a process that loads data adds."""
        text = str(self.args[0]) if self.args else ""
        if text.startswith(f"Caught {type(self).__name__} in "):  # and then a traceback
            text = text.rpartition(f"{type(self).__name__}: ")[2].strip()
        return text
