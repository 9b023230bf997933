"""The part of Markdown that model cards use, as HTML; all else is shown as the text it is.

No HTML of the source survives, no link becomes one, and no picture is loaded.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from ._markup import Markup, element, joined

__all__ = ["markdown"]

_HEADING: Final = re.compile(r"(#{1,6})\s+(.*)")
_ITEM: Final = re.compile(r"\s*(?:[-*+]|\d{1,3}[.)])\s+(.*)")
_RULE: Final = re.compile(r"\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*")
_INLINE: Final = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*")


def markdown(text: str, top: int = 3) -> Markup:
    """Headings, paragraphs, lists, tables, fenced code; inside a line code and bold.

    Parameters
    ----------
    top
        Level of the heading that ``#`` becomes.
    """
    return joined(_blocks(text.expandtabs(4).splitlines(), top))


def _blocks(lines: Sequence[str], top: int) -> Iterator[Markup]:
    at = 0
    while at < len(lines):
        end = _end(lines, at)
        block = lines[at:end]
        if block[0].strip():
            yield _block(block, top)
        at = end


def _end(lines: Sequence[str], at: int) -> int:
    """Where the block that begins at `at` ends, exclusive."""
    kind = _kind(lines[at])
    end = at + 1
    if kind == "fence":
        while end < len(lines) and _kind(lines[end]) != "fence":
            end += 1
        return min(end + 1, len(lines))
    if kind in ("blank", "heading"):
        return end
    # The lines of a paragraph or an item may go on until something else begins.
    while end < len(lines) and _kind(lines[end]) in (kind, "text"):
        if kind == "table" and _kind(lines[end]) == "text":
            break
        end += 1
    return end


def _kind(line: str) -> str:
    text = line.strip()
    if not text:
        return "blank"
    if text.startswith("```"):
        return "fence"
    if _HEADING.fullmatch(text):
        return "heading"
    if text.startswith("|"):
        return "table"
    return "item" if _ITEM.fullmatch(line) else "text"


def _block(lines: Sequence[str], top: int) -> Markup:
    kind = _kind(lines[0])
    if kind == "fence":
        closed = len(lines) > 1 and _kind(lines[-1]) == "fence"
        return element("pre", {}, "\n".join(lines[1 : -1 if closed else None]))
    if kind == "heading":
        found = _HEADING.fullmatch(lines[0].strip())
        assert found is not None
        level = min(len(found[1]) - 1 + top, 6)
        return element(f"h{level}", {}, _inline(found[2].rstrip("# ")))
    if kind == "table":
        return _table(lines)
    if kind == "item":
        return element("ul", {}, (element("li", {}, _inline(item)) for item in _items(lines)))
    return element("p", {}, _inline(" ".join(line.strip() for line in lines)))


def _items(lines: Sequence[str]) -> Iterator[str]:
    parts: list[str] = []
    for line in lines:
        found = _ITEM.fullmatch(line)
        if found and parts:
            yield " ".join(parts)
            parts = []
        parts.append(found[1] if found else line.strip())
    yield " ".join(parts)


def _table(lines: Sequence[str]) -> Markup:
    rows = [_cells(line) for line in lines if not _RULE.fullmatch(line.strip())]
    if not rows:
        return element("p", {}, " ".join(lines))
    head = element("tr", {}, (element("th", {"scope": "col"}, _inline(cell)) for cell in rows[0]))
    body = (
        element("tr", {}, (element("td", {}, _inline(cell)) for cell in row)) for row in rows[1:]
    )
    table = element("table", {}, element("thead", {}, head), element("tbody", {}, body))
    return element("div", {"class": "wide", "tabindex": 0}, table)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _inline(text: str) -> Markup:
    parts: list[Markup | str] = []
    at = 0
    for found in _INLINE.finditer(text):
        parts.append(text[at : found.start()])
        name, words = ("code", found[1]) if found[1] is not None else ("strong", found[2])
        parts.append(element(name, {}, words))
        at = found.end()
    return joined([*parts, text[at:]])
