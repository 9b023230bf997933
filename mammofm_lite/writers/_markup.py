"""HTML that cannot be broken by what it shows: text is escaped unless it was built here."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

__all__ = ["Markup", "Shown", "Value", "data_table", "element", "joined", "number", "plain"]

# Controls, surrogates and what reverses the reading direction; tab and newline may stay.
_UNFIT: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
    r"\ud800-\udfff\ufffe\uffff]"
)
_EMPTY: Final = frozenset({"br", "input", "link", "meta"})


class Markup(str):
    """Text that is HTML. Only this module makes it out of other text."""

    __slots__ = ()


Shown: TypeAlias = str | Iterable["Shown"] | None
Value: TypeAlias = str | int | float | bool | None


def plain(text: str) -> str:
    """Text without the characters that no text of ours needs, each replaced by U+FFFD."""
    return _UNFIT.sub("\ufffd", text)


def element(name: str, attributes: Mapping[str, Value] | None = None, *content: Shown) -> Markup:
    """One element.

    Parameters
    ----------
    name
        Of the element; a constant of the caller.
    attributes
        Names are constants of the caller, values may be anything: they are escaped. ``True`` is an
        attribute without a value; ``None`` and ``False`` leave it out. A float is written so that
        it is read back exactly.
    content
        Texts, which are escaped, `Markup`, which is not, ``None``, and iterables of these.
    """
    shown = "".join(_attribute(key, value) for key, value in (attributes or {}).items())
    if name in _EMPTY:
        return Markup(f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{joined(content)}</{name}>")


def data_table(kind: str, caption: str, titles: Sequence[str], rows: Iterable[Markup]) -> Markup:
    """A table that scrolls by itself where it is too wide; its caption is for those who hear it."""
    head = element("tr", {}, (element("th", {"scope": "col"}, title) for title in titles))
    table = element(
        "table",
        {"class": kind},
        element("caption", {"class": "unseen"}, caption),
        element("thead", {}, head),
        element("tbody", {}, rows),
    )
    given: Mapping[str, Value] = {"class": "wide", "tabindex": 0, "role": "region"}
    return element("div", {**given, "aria-label": caption}, table)


def joined(content: Shown) -> Markup:
    """Texts and elements one after the other, as `element` takes them."""
    if content is None:
        return Markup()
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(html.escape(plain(content), quote=True))
    return Markup("".join(joined(item) for item in content))


def _attribute(name: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = number(value) if isinstance(value, int | float) else value
    return f' {name}="{html.escape(plain(text), quote=True)}"'


def number(value: int | float) -> str:
    """Shortest decimal that is read back as the same number; whole numbers without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
