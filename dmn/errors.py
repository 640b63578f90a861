"""The base of every error that dmn raises for what it was asked to do."""


class DmnError(Exception):
    """Something that cannot be done as asked; the message names what, and says what would work."""

    def __str__(self) -> str:
        """Show the message plainly, without the quotes that KeyError adds."""
        return str(self.args[0]) if self.args else ""
