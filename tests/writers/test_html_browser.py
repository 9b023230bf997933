"""The page in a real browser: how it hangs views, what its controls do, keys, print, no network.

Skips where no Chromium is found (Debian: ``apt-get install chromium``); ``MAMMOFM_BROWSER`` names
another.
"""

import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mammofm_lite.progress import StageReporter
from mammofm_lite.writers.folder import ResultFolder
from mammofm_lite.writers.html import Picture, html_page

SHIFT, CTRL = 8, 2


@pytest.fixture(scope="module")
def browser(browser_driver: ModuleType) -> Iterator[Any]:
    path = browser_driver.find_browser()
    if path is None:
        pytest.skip(
            "no Chromium found: make validate-tools (Debian: chromium), or set MAMMOFM_BROWSER"
        )
    browser = browser_driver.Browser(path)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page_file(answered: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "out"
    writer = ResultFolder(folder, ("html",), False)
    writer.write(answered.result, answered.study, StageReporter(None), bundle=answered.bundle)
    return folder / "result.html"


@pytest.fixture
def page(browser: Any, page_file: Path) -> Any:
    """The page, freshly loaded."""
    browser.open(page_file)
    return browser


def rectangle(page: Any, selector: str) -> dict[str, float]:
    """Where an element is on the screen."""
    found: dict[str, float] = page.run(
        f"(() => {{ const r = document.querySelector({json.dumps(selector)})"
        ".getBoundingClientRect(); return {left: r.left, right: r.right, top: r.top,"
        " bottom: r.bottom, width: r.width, height: r.height}; })()"
    )
    return found


def view_box(page: Any, view: str) -> list[float]:
    text = page.run(f"document.querySelector('[data-view={view}] svg').getAttribute('viewBox')")
    return [float(number) for number in text.split()]


def focus(page: Any, view: str) -> None:
    page.run(f"document.querySelector('[data-view={view}] .viewer').focus()")


def grey(page: Any, view: str) -> float:
    """Mean of a view's middle as it is drawn."""
    picture = Image.open(BytesIO(page.screenshot(f"[data-view={view}] .viewer"))).convert("L")
    pixels = np.asarray(picture, np.float64)
    rows, columns = pixels.shape
    return float(pixels[rows // 4 : -rows // 4, columns // 4 : -columns // 4].mean())


# -------------------- nothing goes out


def test_opening_it_asks_for_nothing_and_nothing_is_wrong(page: Any, page_file: Path) -> None:
    page.run("new Promise((done) => setTimeout(done, 200))")
    assert page.requests() == [page_file.as_uri()]
    assert page.problems() == []


class _Counter(http.server.BaseHTTPRequestHandler):
    hits = 0

    def do_GET(self) -> None:
        type(self).hits += 1
        self.send_response(204)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


ATTEMPTS = """
(async () => {
  const wait = (element, name) => new Promise((done) => {
    element.onload = element.onerror = done; setTimeout(done, 400);
    element[name] = ADDRESS; document.body.append(element);
  });
  try { await fetch(ADDRESS, {mode: "no-cors"}); } catch {}
  try { navigator.sendBeacon(ADDRESS, "x"); } catch {}
  await wait(new Image(), "src");
  await wait(document.createElement("script"), "src");
  await wait(document.createElement("iframe"), "src");
  const sheet = document.createElement("link"); sheet.rel = "stylesheet";
  await wait(sheet, "href");
})()
"""


@pytest.mark.parametrize("policy", [True, False], ids=["page", "a page without the policy"])
def test_it_cannot_reach_the_network(
    browser: Any, page_file: Path, tmp_path: Path, policy: bool
) -> None:
    """Whatever a script inside of it tried; and the server counts, where nothing forbids it."""
    _Counter.hits = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Counter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = page_file
    if not policy:
        path = tmp_path / "open.html"
        path.write_text("<!doctype html><title>open</title><body></body>")
    try:
        browser.open(path)
        address = json.dumps(f"http://127.0.0.1:{server.server_address[1]}/x")
        browser.run(ATTEMPTS.replace("ADDRESS", address))
    finally:
        server.shutdown()
        server.server_close()
    assert (_Counter.hits == 0) is policy


# -------------------- how views hang


def test_right_beside_left_with_the_chest_walls_together(page: Any) -> None:
    images = {v: rectangle(page, f"[data-view={v}] image") for v in VIEWS}
    for row in ("CC", "MLO"):
        right, left = images[f"R-{row}"], images[f"L-{row}"]
        assert right["right"] <= left["left"] <= right["right"] + 4
    frames = {v: rectangle(page, f"[data-view={v}] svg") for v in VIEWS}
    assert frames["R-CC"]["bottom"] <= frames["R-MLO"]["top"]
    # One scale: the phantoms of all views have the same number of columns.
    assert len({round(image["width"], 1) for image in images.values()}) == 1


VIEWS = ("R-CC", "L-CC", "R-MLO", "L-MLO")


def boxes_on_the_screen(page: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.run(
        """[...document.querySelectorAll("rect.box")].map((box) => {
          const shown = box.getBoundingClientRect();
          const image = box.closest("svg").querySelector("image").getBoundingClientRect();
          return {number: Number(box.dataset.mark), view: box.closest("figure").dataset.view,
                  box: [shown.left, shown.top, shown.right, shown.bottom],
                  image: [image.left, image.top, image.right, image.bottom]};
        })"""
    )
    return found


@pytest.mark.parametrize("mirrored", [False, True])
def test_boxes_lie_on_the_picture_where_the_result_says(
    browser: Any, answered: Any, tmp_path: Path, mirrored: bool
) -> None:
    """Zoomed or not, hung as stored or turned."""
    result = answered.result
    pictures = {v: Picture(np.full((57, 48), 90, np.uint8), "") for v in VIEWS}
    stored = {"R": ("A", "F"), "L": ("P", "F")} if mirrored else {"R": ("P", "F"), "L": ("A", "F")}
    orientations = {view: stored[view[0]] for view in VIEWS}
    # In CC the column direction is inside, so CC views stay as they are.
    page = html_page(result, answered.bundle, pictures, orientations)  # type: ignore[arg-type]
    (tmp_path / "page.html").write_bytes(page)
    browser.open(tmp_path / "page.html")
    for zoomed in (False, True):
        if zoomed:
            focus(browser, "R-MLO")
            for _ in range(3):
                browser.press("+")
        marks = sorted(
            result.localization.marks, key=lambda mark: (VIEWS.index(mark.view), -mark.score)
        )
        shown = boxes_on_the_screen(browser)
        assert len(shown) == len(marks) > 3
        for item in shown:
            mark = marks[item["number"] - 1]
            assert item["view"] == mark.view
            x1, y1, x2, y2 = mark.box_px
            if mirrored and "MLO" in mark.view:
                x1, x2 = 478 - x2, 478 - x1
            left, top, right, _ = item["image"]
            scale = (right - left) / 478
            expected = [left + x1 * scale, top + y1 * scale, left + x2 * scale, top + y2 * scale]
            np.testing.assert_allclose(item["box"], expected, atol=0.1)


def test_a_missing_view_keeps_its_place(browser: Any, answered: Any, tmp_path: Path) -> None:
    views = tuple(info for info in answered.result.views if info.view != "L-CC")
    result = dataclasses.replace(answered.result, views=views, missing_views=("L-CC",))
    pictures = {info.view: Picture(np.full((57, 48), 90, np.uint8), "") for info in views}
    (tmp_path / "page.html").write_bytes(html_page(result, answered.bundle, pictures, {}))
    browser.open(tmp_path / "page.html")
    assert browser.problems() == []
    missing, beside = rectangle(browser, "[data-view=L-CC]"), rectangle(browser, "[data-view=R-CC]")
    assert missing["left"] > beside["left"]
    assert missing["top"] == pytest.approx(beside["top"], abs=1)
    assert missing["height"] > 100
    assert "Missing view" in browser.run("document.querySelector('[data-view=L-CC]').innerText")
    focus(browser, "R-CC")
    browser.press("+")  # what is there still works
    assert view_box(browser, "R-CC")[2] < view_box(browser, "R-MLO")[2] * 1.01


# -------------------- controls


def test_boxes_toggle(page: Any) -> None:
    hidden = "[...document.querySelectorAll('.box')].filter((b) => !b.checkVisibility()).length"
    boxes = page.run("document.querySelectorAll('.box').length")
    masses = page.run("document.querySelectorAll('.box[data-label=mass]').length")
    assert 0 < masses < boxes
    page.click("[data-toggle-label=mass]")
    assert page.run(hidden) == masses
    tags = "[...document.querySelectorAll('.tag')].filter((b) => !b.checkVisibility()).length"
    assert page.run(tags) == masses
    focus(page, "L-CC")
    page.press("m")
    assert page.run(hidden) == boxes
    page.press("m")
    assert page.run(hidden) == 0


@pytest.mark.parametrize("kind", ["peak", "field"])
def test_other_outlines_are_off_at_first(page: Any, kind: str) -> None:
    shown = f"[...document.querySelectorAll('.{kind}')].filter((b) => b.checkVisibility()).length"
    assert page.run(shown) == 0
    page.click(f"[data-toggle={kind}]")
    assert page.run(shown) == 4


def test_window_and_level_change_the_picture(page: Any) -> None:
    plain = grey(page, "R-MLO")
    page.click("#invert")
    assert grey(page, "R-MLO") > plain + 60
    page.click("#invert")
    focus(page, "R-MLO")
    for _ in range(4):
        page.press(";")  # the window lies lower: all is lighter
    assert page.run("document.querySelector('#level').value") == "30"
    assert grey(page, "R-MLO") > plain + 10
    page.click("#grey-reset")
    assert grey(page, "R-MLO") == pytest.approx(plain, abs=1)
    page.drag("[data-view=R-MLO] .viewer", 0, 90, SHIFT)
    assert int(page.run("document.querySelector('#level').value")) > 60
    assert grey(page, "R-MLO") < plain - 10


def test_the_window_is_the_one_it_says(browser: Any, answered: Any, tmp_path: Path) -> None:
    """Window 50 %, level 40 %: from 15 % (black) to 65 % (white) of the picture's grey."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None], 256, axis=0)
    pictures = dict.fromkeys(VIEWS, Picture(ramp, ""))
    page = html_page(answered.result, answered.bundle, pictures, {})  # type: ignore[arg-type]
    (tmp_path / "page.html").write_bytes(page)
    browser.open(tmp_path / "page.html")
    browser.run(
        "for (const [id, value] of [['width', 50], ['level', 40]]) {"
        "const e = document.getElementById(id); e.value = value;"
        "e.dispatchEvent(new Event('input')); }"
        "document.querySelectorAll('.box, .rim, .tag, .scale, .corner')"
        ".forEach((e) => e.remove());"
        "document.querySelector('[data-view=L-CC] image').removeAttribute('clip-path')"
    )
    image = rectangle(browser, "[data-view=L-CC] image")
    shot = Image.open(BytesIO(browser.screenshot())).convert("L")
    row = np.asarray(shot, np.float64)[int(image["top"] + image["height"] / 2)]
    frame = rectangle(browser, "[data-view=L-CC] .viewer")
    x = np.arange(int(image["left"]) + 2, int(min(image["right"], frame["right"])) - 2)
    stored = (x + 0.5 - image["left"]) / image["width"]
    expected = np.clip((stored - 0.15) / 0.5, 0, 1) * 255
    assert len(x) > 100
    np.testing.assert_allclose(row[x], expected, atol=4)  # two grey levels of the ramp, times two


def test_keys_zoom_move_and_fit(page: Any) -> None:
    home = view_box(page, "R-CC")
    focus(page, "R-CC")
    page.press("+")
    page.press("+")
    zoomed = view_box(page, "R-CC")
    assert zoomed[2] == pytest.approx(home[2] / 1.25**2)
    page.press("ArrowRight")
    assert view_box(page, "R-CC")[0] > zoomed[0]
    # The other side moves as its mirror image: both towards the chest wall.
    assert view_box(page, "L-CC")[0] < home[2] * (1 - 1 / 1.25**2) / 2
    assert view_box(page, "L-CC")[2] == pytest.approx(zoomed[2])
    page.press("ArrowUp")
    assert view_box(page, "R-CC")[1] < zoomed[1]
    page.press("0")
    assert view_box(page, "R-CC") == pytest.approx(home)
    page.click("#together")
    focus(page, "R-CC")
    page.press("+")
    assert view_box(page, "L-CC")[2] == pytest.approx(home[2])


def test_the_chest_wall_stays_at_its_edge(page: Any) -> None:
    focus(page, "R-CC")
    for _ in range(5):
        page.press("+")
    for _ in range(40):
        page.press("ArrowRight")
    x, _, width, _ = view_box(page, "R-CC")
    assert x + width == pytest.approx(478, abs=0.01)


def test_the_mouse_zooms_at_its_place_and_drags(page: Any) -> None:
    home = view_box(page, "L-MLO")
    page.wheel("[data-view=L-MLO] .viewer", -100, CTRL)
    zoomed = view_box(page, "L-MLO")
    assert zoomed[2] == pytest.approx(home[2] / 1.15)
    page.drag("[data-view=L-MLO] .viewer", 30, -20)
    moved = view_box(page, "L-MLO")
    assert moved[0] < zoomed[0]
    assert moved[1] > zoomed[1]
    before = page.run("scrollY")
    page.wheel("[data-view=L-MLO] .viewer", 100)  # without Ctrl the page scrolls
    page.run("new Promise((done) => setTimeout(done, 300))")
    assert page.run("scrollY") != before or before > 0
    assert view_box(page, "L-MLO") == pytest.approx(moved)


def test_whole_images(page: Any) -> None:
    page.click("#whole")
    for view in VIEWS:
        image, frame = rectangle(page, f"[data-view={view}] image"), rectangle(
            page, f"[data-view={view}] svg"
        )  # fmt: skip
        for edge, sign in (("left", 1), ("top", 1), ("right", -1), ("bottom", -1)):
            assert sign * (image[edge] - frame[edge]) > -0.5


def test_a_mark_is_shown_from_the_table(page: Any, answered: Any) -> None:
    marks = sorted(
        answered.result.localization.marks, key=lambda mark: (VIEWS.index(mark.view), -mark.score)
    )
    page.click(f"[data-toggle-label={marks[0].label}]")  # off
    page.run("document.querySelector('button.show[data-mark=\"1\"]').focus()")
    page.press("Enter")
    view = marks[0].view
    assert page.run("document.activeElement.closest('figure').dataset.view") == view
    assert page.run("document.querySelector('.box[data-mark=\"1\"]').checkVisibility()")
    x, y, width, height = view_box(page, view)
    x1, y1, x2, y2 = marks[0].box_px
    assert x <= x1 < x2 <= x + width
    assert y <= y1 < y2 <= y + height
    assert (x2 - x1) / width > 0.1


def test_one_view_alone(page: Any) -> None:
    focus(page, "L-MLO")
    shown = "[...document.querySelectorAll('figure')].filter((f) => f.checkVisibility())"
    page.press("e")
    assert page.run(f"{shown}.map((f) => f.dataset.view)") == ["L-MLO"]
    page.press("Escape")
    assert page.run(f"{shown}.length") == 4


# -------------------- for everybody


def test_all_is_reached_by_the_keyboard_and_seen(page: Any) -> None:
    """Tab through the page: every control and view has its turn, and a ring around it."""
    wanted = page.run(
        "[...document.querySelectorAll('a, button, input, .viewer')]"
        ".filter((e) => e.checkVisibility()).length"
    )
    seen = set()
    for _ in range(wanted + 20):
        page.press("Tab")
        place, matches, outline = page.run(
            "(() => { const e = document.activeElement;"
            "const all = [...document.querySelectorAll('a, button, input, .viewer')];"
            "const style = getComputedStyle(e);"
            "return [all.indexOf(e), e.matches(':focus-visible'),"
            " style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2]; })()"
        )
        if place >= 0:
            seen.add(place)
            assert matches
            assert outline
    assert len(seen) == wanted


def test_everything_has_a_name(page: Any) -> None:
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "checkbox", "slider", "image", "link", "region", "group", "navigation"}
    named = 0
    for node in nodes:
        role = node.get("role", {}).get("value")
        if node.get("ignored") or role not in roles:
            continue
        assert node.get("name", {}).get("value"), node
        named += 1
    assert named > 20
    assert page.run("document.documentElement.lang") == "en"
    levels = page.run("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


CONTRAST = """
(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => {
      c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("svg, script, style, noscript")) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push([element.tagName, walker.currentNode.data.slice(0, 40), ratio]);
  }
  return low;
})()
"""


@pytest.mark.parametrize("media", ["screen", "print"])
def test_contrast(page: Any, media: str) -> None:
    """WCAG 2.2, 1.4.3: text has a contrast of at least 4.5 to 1."""
    page.call("Emulation.setEmulatedMedia", media=media)
    try:
        assert page.run(CONTRAST) == []
    finally:
        page.call("Emulation.setEmulatedMedia", media="")


def test_a_narrow_screen(browser: Any, page_file: Path) -> None:
    browser.open(page_file, 390, 800)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    right, left = (rectangle(browser, f"[data-view={v}] image") for v in ("R-CC", "L-CC"))
    assert right["right"] <= left["left"] <= right["right"] + 4


def test_printed(page: Any) -> None:
    """Light, without controls, all views on the first page with the chest walls together."""
    focus(page, "L-MLO")
    page.press("e")  # one view alone on the screen, all on paper
    page.resize(700, 1000)  # about A4 at 96 dots per inch, less its margins
    page.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        for hidden in (".tools", "nav", "button.show", ".keys"):
            assert not page.run(f"document.querySelector('{hidden}').checkVisibility()")
        images = {v: rectangle(page, f"[data-view={v}] image") for v in VIEWS}
        for row in ("CC", "MLO"):
            assert abs(images[f"L-{row}"]["left"] - images[f"R-{row}"]["right"]) <= 4
        assert images["L-MLO"]["bottom"] < 1000
    finally:
        page.call("Emulation.setEmulatedMedia", media="")
    printed = page.pdf()
    assert printed.startswith(b"%PDF")
    assert (
        2 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") <= 12
    )  # the model card may be long


def test_without_scripts(browser: Any, page_file: Path) -> None:
    """All answers, pictures and boxes are there; controls that would do nothing are not."""
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page_file)
        dom = browser.call("DOM.getDocument", depth=-1)
        shown = []
        for selector in (".tools", "noscript p", "rect.box", "image", ".verdict"):
            node = browser.call(
                "DOM.querySelector", nodeId=dom["root"]["nodeId"], selector=selector
            )["nodeId"]
            try:
                box = browser.call("DOM.getBoxModel", nodeId=node)["model"]
                shown.append(box["width"] > 0)
            except RuntimeError:
                shown.append(False)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert shown == [False, True, True, True, True]


@pytest.mark.parametrize(("width", "below"), [(1280, True), (1920, True), (900, False)])
def test_marks_stand_below_the_views_where_there_is_room(
    browser: Any, page_file: Path, width: int, below: bool
) -> None:
    """Beside the other answers; in one column all of them follow each other."""
    browser.open(page_file, width)
    views, marks, last = (rectangle(browser, f"#{name}") for name in ("views", "marks", "risk"))
    assert abs(marks["left"] - views["left"]) < 1
    assert (marks["top"] < last["bottom"]) is below
    assert marks["top"] > views["bottom"]
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")


def test_nothing_beside_the_window_is_seen_until_it_is_asked_for(
    browser: Any, page_file: Path
) -> None:
    """A wide screen has room beside the window, where half a side marker would stand."""
    browser.open(page_file, 2400, 900)
    drawn = "document.querySelectorAll('.box, .rim, .tag, .scale, .corner')"
    browser.run(f"{drawn}.forEach((e) => e.remove())")
    at = "[data-view=R-MLO] .viewer"

    def brightest_beside() -> int:
        pixels = np.asarray(Image.open(BytesIO(browser.screenshot(at))).convert("L"))
        columns = pixels.shape[1]
        home = view_box(browser, "R-MLO")
        shown = browser.run(
            "document.querySelector('[data-view=R-MLO] svg').getBoundingClientRect().height"
        )
        beside = columns - round(home[2] * shown / home[3])
        assert beside > 50
        return int(pixels[:, : beside - 5].max())

    assert brightest_beside() == 0
    browser.click("#whole")
    image = "document.querySelector('[data-view=R-MLO] .pixels').getAttribute('clip-path')"
    assert browser.run(image) is None
    browser.click("#whole")
    assert browser.run(image) == "url(#trim-R-MLO)"
