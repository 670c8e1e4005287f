"""How an object shows itself at the end of a notebook's cell."""

from importlib import import_module


class NotebookHtml:
    """Adds `_repr_html_`, which notebooks ask for: a table, or a picture.

    `views.notebook` makes it, so that a class of a lower floor needs to know nothing of tables.
    """

    def _repr_html_(self) -> str:
        return str(import_module("mnist_mlp.views.notebook").to_html(self))
