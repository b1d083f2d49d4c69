"""Pages from templates of this folder, without plots: loading matplotlib takes half a second."""

import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from evaluation.summary import METRICS
from utils import counted, show_number

SPELLING = {"iou": "IoU", "dice": "Dice", "hd95": "HD95"}


def render(page: dict[str, Any], template: str = "report.html.jinja") -> str:
    """Return the page. Whatever comes from a file is escaped in HTML, and a name that is missing is an error."""
    return environment().get_template(template).render(page)


@functools.cache
def environment() -> Environment:
    """Return the templates of this folder."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=select_autoescape(disabled_extensions=["md.jinja"], default=True),
    )  # fmt: skip
    templates.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    templates.filters |= {"readable": readable, "shown": shown, "show_number": show_number, "counted": counted}
    return templates


def readable(name: str) -> str:
    """Return the name of a column as a heading: surface_dice_2 -> Surface Dice 2."""
    text = " ".join(SPELLING.get(word, word) for word in name.split("_"))
    return text[:1].upper() + text[1:]


def shown(value: str | float | None, name: str = "") -> str:
    """Return a value of a table as text; name: of its column, which may be a metric's."""
    if isinstance(value, str):
        return value
    form = METRICS[name].form if name in METRICS else ".3f"
    return f"{value:,}" if isinstance(value, int) else show_number(value, form)
