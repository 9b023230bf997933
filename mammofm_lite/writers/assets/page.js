"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const status = byId("status");
  const say = (text) => { status.textContent = text; };
  const SCALE_BARS_MM = [50, 20, 10, 5, 2, 1];
  const MOST_ZOOM = 16;
  const TEXT_PX = 12;

  // ---- views. A view's place is told by zoom and by the centre's distance from the home centre,
  // away from the chest wall and downwards, in parts of the home width: so it fits any other view.

  class View {
    constructor(figure) {
      this.figure = figure;
      this.name = figure.dataset.view;
      this.box = figure.querySelector(".viewer");
      this.svg = figure.querySelector("svg");
      this.outwards = figure.dataset.side === "R" ? -1 : 1;
      this.perMm = Number(this.svg.dataset.pxPerMm) || null;
      this.homes = {
        breast: this.svg.dataset.breast.split(" ").map(Number),
        whole: this.svg.dataset.whole.split(" ").map(Number),
      };
      this.home = this.homes.breast;
      this.fit();
    }

    fit() { this.zoom = 1; this.across = 0; this.down = 0; this.draw(); }

    place() {
      const [x, y, width, height] = this.home;
      const w = width / this.zoom, h = height / this.zoom;
      const centreX = x + width / 2 + this.outwards * this.across * width;
      const centreY = y + height / 2 + this.down * width;
      return [centreX - w / 2, centreY - h / 2, w, h];
    }

    draw() {
      const place = this.place();
      this.svg.setAttribute("viewBox", place.join(" "));
      this.texts(place);
    }

    // Texts and the scale bar keep their size on the screen.
    texts([x, y, width, height]) {
      const pixel = this.pixel();
      if (!pixel) return;
      this.svg.setAttribute("font-size", TEXT_PX * pixel);
      const scale = this.svg.querySelector(".scale");
      if (!scale || !this.perMm) return;
      const mm = SCALE_BARS_MM.find((one) => one * this.perMm <= width / 3) ?? 1;
      const length = mm * this.perMm, gap = 10 * pixel, tick = 5 * pixel;
      const left = this.outwards < 0 ? x + gap : x + width - gap - length;
      const bottom = y + height - gap;
      const line = `M${left} ${bottom - tick}v${tick}h${length}v${-tick}`;
      all("path", scale).forEach((path) => path.setAttribute("d", line));
      const text = scale.querySelector("text");
      text.setAttribute("x", left + length / 2);
      text.setAttribute("y", bottom - tick * 1.6);
      text.textContent = `${mm} mm`;
    }

    // Original pixels per pixel of the screen.
    pixel() {
      const area = this.svg.getBoundingClientRect();
      if (!area.width || !area.height) return 0;
      const [, , width, height] = this.place();
      return Math.max(width / area.width, height / area.height);
    }

    move(right, downwards) {
      this.across += this.outwards * right / this.home[2];
      this.down += downwards / this.home[2];
      this.keepInside();
      this.draw();
    }

    // No further than the home place: the chest wall never leaves the edge that it hangs at.
    keepInside() {
      const room = (1 - 1 / this.zoom) / 2;
      const tall = this.home[3] / this.home[2];
      this.across = clamp(this.across, -room, room);
      this.down = clamp(this.down, -room * tall, room * tall);
    }

    // Zoom so that a point, in original pixels as hung, stays where it is.
    zoomBy(factor, at) {
      const before = this.place();
      const [px, py] = at ?? [before[0] + before[2] / 2, before[1] + before[3] / 2];
      const zoom = clamp(this.zoom * factor, 1, MOST_ZOOM);
      const shrink = this.zoom / zoom;
      this.zoom = zoom;
      const wantX = px - (px - before[0]) * shrink, wantY = py - (py - before[1]) * shrink;
      const now = this.place();
      this.move(wantX - now[0], wantY - now[1]);
    }

    like(other) {
      this.zoom = other.zoom; this.across = other.across; this.down = other.down;
      this.keepInside();
      this.draw();
    }

    whole(on) {
      this.home = on ? this.homes.whole : this.homes.breast;
      const image = this.svg.querySelector(".pixels");
      if (on) image.removeAttribute("clip-path");
      else image.setAttribute("clip-path", `url(#trim-${this.name})`);
      this.fit();
    }

    show(x, y, width, height) {
      this.fit();
      const [homeX, homeY, homeW, homeH] = this.home;
      this.zoom = clamp(Math.min(homeW / width, homeH / height) / 3, 1, MOST_ZOOM);
      this.move(x + width / 2 - homeX - homeW / 2, y + height / 2 - homeY - homeH / 2);
    }

    // A point of the screen in original pixels as hung.
    point(event) {
      const matrix = this.svg.getScreenCTM().inverse();
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
      return [at.x, at.y];
    }
  }

  const views = all(".view:not(.missing)").map((figure) => new View(figure));
  const together = byId("together");

  const share = (view) => {
    if (together.checked) views.forEach((other) => { if (other !== view) other.like(view); });
    say(`${view.name}: zoom ${view.zoom.toFixed(1)}`);
  };
  const zoomAll = (factor) => { views.forEach((view) => view.zoomBy(factor)); if (views[0]) share(views[0]); };
  const fitAll = () => { views.forEach((view) => view.fit()); say("All views fit"); };
  const setWhole = (on) => {
    byId("whole").checked = on;
    views.forEach((view) => view.whole(on));
    say(on ? "Whole images" : "Background trimmed");
  };

  // ---- grey: the window is a part of the one the pictures were made in

  const width = byId("width"), level = byId("level"), invert = byId("invert");
  const functions = all("#grey feComponentTransfer > *");

  const grey = () => {
    const part = width.value / 100, centre = level.value / 100;
    const slope = 1 / part, intercept = 0.5 - centre / part;
    const [a, b] = invert.checked ? [-slope, 1 - intercept] : [slope, intercept];
    functions.forEach((one) => { one.setAttribute("slope", a); one.setAttribute("intercept", b); });
    byId("width-value").textContent = `${width.value} %`;
    byId("level-value").textContent = `${level.value} %`;
    say(`Window ${width.value} %, level ${level.value} %${invert.checked ? ", inverted" : ""}`);
  };
  const changeGrey = (wider, higher) => {
    width.value = Number(width.value) + wider;
    level.value = Number(level.value) + higher;
    grey();
  };

  // ---- marks

  const toggles = all("[data-toggle-label]");
  const showLabels = () => toggles.forEach((toggle) => {
    const label = CSS.escape(toggle.dataset.toggleLabel);
    all(`svg [data-label="${label}"]`).forEach((one) => one.classList.toggle("off", !toggle.checked));
  });
  const toggleMarks = () => {
    const on = !toggles.some((toggle) => toggle.checked);
    toggles.forEach((toggle) => { toggle.checked = on; });
    showLabels();
    say(on ? "Marks shown" : "Marks hidden");
  };
  const light = (number, on) => all(`[data-mark="${number}"]`).forEach((one) => one.classList.toggle("lit", on));

  const showMark = (number) => {
    const box = document.querySelector(`.box[data-mark="${number}"]`);
    const view = views.find((one) => one.figure.contains(box));
    const toggle = toggles.find((one) => one.dataset.toggleLabel === box.dataset.label);
    toggle.checked = true;
    showLabels();
    choose(view, byId("hanging").classList.contains("one"));
    const area = box.getBBox();
    const transform = box.parentNode.transform.baseVal.consolidate();
    const corners = [[area.x, area.y], [area.x + area.width, area.y + area.height]].map(([x, y]) => {
      const point = new DOMPoint(x, y);
      return transform ? point.matrixTransform(transform.matrix) : point;
    });
    const [first, second] = corners;
    view.show(Math.min(first.x, second.x), Math.min(first.y, second.y), area.width, area.height);
    view.box.focus();
    view.box.scrollIntoView({ block: "center" });
    say(`Mark ${number} in ${view.name}`);
  };

  // ---- one view alone

  const choose = (view, alone) => {
    views.forEach((one) => one.figure.classList.toggle("chosen", one === view));
    byId("hanging").classList.toggle("one", alone);
    views.forEach((one) => one.draw());
  };

  // ---- hands

  const keys = {
    "+": (view) => { view.zoomBy(1.25); share(view); },
    "=": (view) => { view.zoomBy(1.25); share(view); },
    "-": (view) => { view.zoomBy(0.8); share(view); },
    "0": () => fitAll(),
    "ArrowLeft": (view) => { view.move(-40 * view.pixel(), 0); share(view); },
    "ArrowRight": (view) => { view.move(40 * view.pixel(), 0); share(view); },
    "ArrowUp": (view) => { view.move(0, -40 * view.pixel()); share(view); },
    "ArrowDown": (view) => { view.move(0, 40 * view.pixel()); share(view); },
    "w": () => setWhole(!byId("whole").checked),
    "[": () => changeGrey(-5, 0),
    "]": () => changeGrey(5, 0),
    ";": () => changeGrey(0, -5),
    "'": () => changeGrey(0, 5),
    "i": () => { invert.checked = !invert.checked; grey(); },
    "m": () => toggleMarks(),
    "e": (view) => choose(view, !byId("hanging").classList.contains("one")),
    "Escape": (view) => choose(view, false),
  };

  views.forEach((view) => {
    const { box } = view;
    box.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const act = keys[event.key] ?? keys[event.key.toLowerCase()];
      if (!act) return;
      event.preventDefault();
      act(view);
    });
    box.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      view.zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15, view.point(event));
      share(view);
    }, { passive: false });
    box.addEventListener("dblclick", (event) => { view.zoomBy(2, view.point(event)); share(view); });
    let last = null;
    box.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      box.setPointerCapture(event.pointerId);
      box.focus({ preventScroll: true });
      last = [event.clientX, event.clientY];
    });
    box.addEventListener("pointermove", (event) => {
      if (!last) return;
      const [dx, dy] = [event.clientX - last[0], event.clientY - last[1]];
      if (event.shiftKey) {
        if (Math.abs(dx) < 3 && Math.abs(dy) < 3) return;
        changeGrey(Math.round(dx / 3), Math.round(dy / 3));
      } else {
        view.move(-dx * view.pixel(), -dy * view.pixel());
        share(view);
      }
      last = [event.clientX, event.clientY];
    });
    for (const end of ["pointerup", "pointercancel"]) box.addEventListener(end, () => { last = null; });
  });

  toggles.forEach((toggle) => toggle.addEventListener("change", showLabels));
  all("[data-toggle]").forEach((toggle) => toggle.addEventListener("change", () => {
    all(`svg .${toggle.dataset.toggle}`).forEach((one) => one.classList.toggle("off", !toggle.checked));
  }));
  [width, level, invert].forEach((one) => one.addEventListener("input", grey));
  byId("grey-reset").addEventListener("click", () => {
    width.value = 100; level.value = 50; invert.checked = false; grey();
  });
  byId("whole").addEventListener("change", (event) => setWhole(event.target.checked));
  const zooms = { in: () => zoomAll(1.25), out: () => zoomAll(0.8), fit: fitAll };
  all("[data-zoom]").forEach((one) => one.addEventListener("click", () => zooms[one.dataset.zoom]()));
  all("button.show").forEach((one) => {
    one.hidden = false;
    one.addEventListener("click", () => showMark(one.dataset.mark));
  });
  all("svg .box, table.marks tr[data-mark]").forEach((one) => {
    one.addEventListener("pointerenter", () => light(one.dataset.mark, true));
    one.addEventListener("pointerleave", () => light(one.dataset.mark, false));
  });

  // Browsers may keep the state of controls over a reload, and pictures must agree with them.
  all("input").forEach((one) => { one.checked = one.defaultChecked; one.value = one.defaultValue; });
  grey();
  say("");
  all(".tools").forEach((one) => { one.hidden = false; });
  new ResizeObserver(() => views.forEach((view) => view.draw())).observe(byId("hanging"));
  addEventListener("beforeprint", () => views.forEach((view) => view.draw()));
})();
