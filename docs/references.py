"""Link names in the docstrings of the reference to where they are described; a hook of mkdocs."""

import re
from typing import Any

CODE = re.compile(r"<code>(?P<name>[A-Za-z_][\w.]*)</code>")


def on_page_content(html: str, page: Any, **_: object) -> str:
    """Make each name of a page of the reference a link, if the name has a description."""
    path = page.file.src_uri
    if not path.startswith("reference/"):
        return html
    package = page.title if str(page.title).startswith("dmn") else "dmn"
    return CODE.sub(lambda code: link(code["name"], package), html)


def link(name: str, package: str) -> str:
    """Return a link that is left out where there is nothing of this name.

    Args:
        name: Such as `SplitCAM`, `SplitModel.certificate`, `dmn.hub.load` or `TargetError`.
        package: That the name is looked up in, unless it begins with `dmn` or is an error's.
    """
    home = "dmn.errors" if name.endswith("Error") else package
    identifier = name if name.startswith("dmn.") else f"{home}.{name}"
    return f'<autoref identifier="{identifier}" optional><code>{name}</code></autoref>'
