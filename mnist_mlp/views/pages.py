"""Pages for people, and texts, from the files in the folder templates."""

from pathlib import Path

import jinja2

from mnist_mlp.constants import show_loss
from mnist_mlp.files import write_atomically

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("mnist_mlp", "views/templates"),
    autoescape=jinja2.select_autoescape(),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals["show_loss"] = show_loss


def fill_template(template: str, **parts: object) -> str:
    """A template with its parts filled in; in HTML they are escaped."""
    return _TEMPLATES.get_template(template).render(parts)


def write_page(path: Path, template: str, **parts: object) -> Path:
    """Write a whole page to a file."""
    write_atomically(path, fill_template(template, **parts).encode(errors="replace"))
    return path
