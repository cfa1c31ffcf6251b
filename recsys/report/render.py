"""From a template and its content to one HTML file that needs nothing else."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from recsys.files import whole_file

MISSING = "–"


def render(path: Path, template: str, **content: Any) -> Path:
    """Write a page; the file is always whole, and every text is escaped. Raises OSError naming the file."""
    environment = Environment(
        loader=PackageLoader("recsys.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["number"] = number
    with whole_file(path) as draft:
        draft.write_text(environment.get_template(template).render(**content), encoding="utf-8")
    return path


def number(value: Any) -> str:
    """Counts with separators, other numbers with four decimals, an interval with both its ends, texts as they are.

    >>> number(12345), number(0.5), number([0.25, 0.5]), number("cold"), number(None)
    ('12,345', '0.5000', '0.2500 to 0.5000', 'cold', '–')
    """
    if value is None:
        return MISSING
    if isinstance(value, list):
        return " to ".join(map(number, value))
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
