"""Nothing that is shown can break out of its place in the page."""

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammofm_lite.writers._markdown import markdown
from mammofm_lite.writers._markup import Markup, element, joined, number, plain

texts = st.text() | st.sampled_from(
    [
        "<script>alert(1)</script>",
        "\" onload='x'",
        "&lt;",
        "</p><p>",
        "a\x00b\u202ec",
        "]]>",
        "\ud800",
    ]
)


class Reader(HTMLParser):
    """Elements, attributes and text, as a browser would take them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


@given(texts, texts)
def test_texts_and_attributes_are_what_they_were(text: str, value: str) -> None:
    found = read(element("p", {"title": value}, text))
    assert found.tags == ["p"]
    assert found.attributes == [("title", plain(value))]
    assert found.text == plain(text)


def test_what_is_built_here_is_not_escaped_again() -> None:
    inner = element("b", {}, "a < b")
    assert element("p", {}, inner, None, [inner, " & "]) == (
        "<p><b>a &lt; b</b><b>a &lt; b</b> &amp; </p>"
    )


def test_what_is_cut_off_from_markup_is_text_again() -> None:
    assert joined(Markup("<b>")[:3]) == "&lt;b&gt;"
    assert joined(Markup("<b>") + "") == "&lt;b&gt;"


def test_attributes() -> None:
    given_: dict[str, Any] = {"a": True, "b": False, "c": None, "d": 1, "e": 2.0, "f": 0.1}
    assert element("input", given_) == '<input a d="1" e="2" f="0.1">'


@given(st.floats(allow_nan=False, allow_infinity=False, width=64))
def test_numbers_are_read_back_exactly(value: float) -> None:
    assert float(number(value)) == value


@pytest.mark.parametrize("unfit", ["\x00", "\x1b[2J", "\u202e", "\u2066", "\x85", "\ud800"])
def test_no_controls(unfit: str) -> None:
    assert "\ufffd" in element("p", {}, f"a{unfit}b")
    element("p", {"title": unfit}, unfit).encode()


# -------------------- model cards


CARD = """# Name 1.0

First line,
second line with `code` and **bold**.

## Figures

| figure | value |
|--------|------:|
| AUC    | 0.93  |

- one,
  goes on
- two

```
| not | a table |
```
"""


def test_a_card() -> None:
    page = markdown(CARD)
    assert "<h3>Name 1.0</h3>" in page
    assert (
        "<p>First line, second line with <code>code</code> and <strong>bold</strong>.</p>" in page
    )
    assert "<h4>Figures</h4>" in page
    assert '<th scope="col">figure</th><th scope="col">value</th>' in page
    assert "<td>AUC</td><td>0.93</td>" in page
    assert "<ul><li>one, goes on</li><li>two</li></ul>" in page
    assert "<pre>| not | a table |</pre>" in page


ALLOWED = {"h3", "h4", "h5", "h6", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
ALLOWED |= {"div", "pre", "code", "strong"}

lines = st.lists(
    st.sampled_from(
        ["# a", "| a | b |", "|---|", "- x", "```", "", "**b", "`c`", "1. y", "####### z"]
    )
    | texts
)


@given(lines)
def test_no_html_of_a_card_survives(parts: list[str]) -> None:
    found = read(markdown("\n".join(parts)))
    assert set(found.tags) <= ALLOWED
    assert {name for name, _ in found.attributes} <= {"scope", "class", "tabindex"}


@given(st.lists(st.text("abc xyz", min_size=1).filter(str.strip)))
def test_no_word_of_a_card_is_lost(parts: list[str]) -> None:
    shown = read(markdown("\n\n".join(parts))).text
    assert "".join("".join(parts).split()) == "".join(shown.split())


def test_a_long_line_takes_no_time() -> None:
    for line in ("# " + " " * 200_000 + "x", "|" + " -" * 100_000 + "x", "`" * 200_001):
        markdown(line)
