"use strict";

/** Small charts in SVG: drawn at the width they are shown at, so that text keeps its size on a phone. */
const charts = (() => {
  const SPACE = "http://www.w3.org/2000/svg";
  const round = (x) => Math.round(x * 100) / 100;

  /** Make an SVG element; values are attributes, children elements or text. */
  function make(name, attributes = {}, ...children) {
    const element = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  /** Return from four to nine round numbers that span [low, high]. */
  function ticks(low, high, most = 6) {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= rough * 0.999);
    const first = Math.ceil(low / step - 1e-9);
    const count = Math.floor(high / step + 1e-9) - first;
    return Array.from({ length: count + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
  }

  /** Show a tick without trailing noise, with a true minus sign. */
  function tickText(value, all) {
    const step = all.length > 1 ? all[1] - all[0] : 1;
    const digits = Math.max(0, Math.min(6, Math.ceil(-Math.log10(step) - 1e-9)));
    const exact = Math.abs(step * 10 ** digits - Math.round(step * 10 ** digits)) < 1e-6 ? digits : digits + 1;
    return value.toFixed(exact).replace("-", "−");
  }

  /** The area a chart is drawn in: from data to pixels and back. */
  class Area {
    constructor(width, height, margin, x, y) {
      Object.assign(this, { width, height, margin, x, y });
      this.left = margin.left;
      this.right = width - margin.right;
      this.top = margin.top;
      this.bottom = height - margin.bottom;
    }

    at(x, y) {
      return [this.px(x), this.py(y)];
    }

    px(x) {
      return this.left + ((x - this.x.from) / (this.x.to - this.x.from)) * (this.right - this.left);
    }

    py(y) {
      return this.bottom - ((y - this.y.from) / (this.y.to - this.y.from)) * (this.bottom - this.top);
    }

    /** The data's x under a pointer. */
    valueAt(px) {
      return this.x.from + ((px - this.left) / (this.right - this.left)) * (this.x.to - this.x.from);
    }

    path(points) {
      // far beyond the edge is as good as infinitely far, which SVG cannot say
      const shown = points.map(([x, y]) => {
        const [px, py] = this.at(x, y);
        return `${round(px)},${round(Math.min(Math.max(py, -1e4), 1e4))}`;
      });
      return `M${shown.join("L")}`;
    }
  }

  const kinds = {
    line: (area, layer) => make("path", { d: area.path(layer.points), class: `line ${layer.style}` }),
    band: (area, layer) => {
      const back = [...layer.upper].reverse();
      return make("path", { d: `${area.path([...layer.lower, ...back])}Z`, class: `band ${layer.style}` });
    },
    segment: (area, layer) => {
      const [x1, y1] = area.at(...layer.from);
      const [x2, y2] = area.at(...layer.to);
      const ends = { x1: round(x1), y1: round(y1), x2: round(x2), y2: round(y2) };
      return make("line", { ...ends, class: `line ${layer.style}` });
    },
    dot: (area, layer) => {
      const [cx, cy] = area.at(...layer.at);
      return make("circle", { cx: round(cx), cy: round(cy), r: layer.r || 4.5, class: `dot ${layer.style}` });
    },
    bar: (area, layer) => {
      const [x, y] = area.at(layer.from, Math.max(layer.low, layer.high));
      const [right, bottom] = area.at(layer.to, Math.min(layer.low, layer.high));
      const size = { width: round(Math.max(0, right - x - 1)), height: round(bottom - y) };
      return make("rect", { x: round(x + 0.5), y: round(y), ...size, class: `bar ${layer.style}` });
    },
    note: (area, layer) => {
      const [x, y] = area.at(...layer.at);
      const anchor = { "text-anchor": layer.anchor || "start", class: `note ${layer.style || ""}` };
      return make("text", { x: round(x + (layer.dx || 0)), y: round(y + (layer.dy || 0)), ...anchor }, layer.text);
    },
  };

  let clips = 0;

  /** A chart in `host` of what `describe(width)` returns; `update()` after that has changed. */
  class Chart {
    constructor(host, describe) {
      Object.assign(this, { host, describe, drawn: 0, near: true, later: 0, clip: `clip-${++clips}` });
      const see = ([entry]) => {
        this.near = entry.isIntersecting;
        if (this.near && this.later) this.draw();
      };
      new IntersectionObserver(see, { rootMargin: "300px" }).observe(host);
      new ResizeObserver(() => {
        if (Math.abs(host.clientWidth - this.drawn) > 1) this.draw();
      }).observe(host);
    }

    /** Draw again: now if it can be seen, else once nothing has changed for a moment. */
    update() {
      if (this.near) {
        this.draw();
        return;
      }
      clearTimeout(this.later);
      this.later = setTimeout(() => this.draw(), 150);
    }

    draw() {
      clearTimeout(this.later);
      this.later = 0;
      const width = Math.max(200, this.host.clientWidth);
      this.drawn = this.host.clientWidth;
      const what = this.describe(width);
      const height = Math.round(what.height);
      const margin = { left: 46, right: 12, top: 28, bottom: 42, ...what.margin };
      this.area = new Area(width, height, margin, what.x, what.y);
      const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", focusable: "false" });
      svg.append(this.clipPath(), this.axes(what), ...this.layers(what));
      this.host.replaceChildren(svg);
      if (what.label) this.host.setAttribute("aria-label", what.label);
    }

    clipPath() {
      const { left, right, top, bottom } = this.area;
      const frame = { x: left, y: top - 1, width: right - left, height: bottom - top + 2 };
      return make("clipPath", { id: this.clip }, make("rect", frame));
    }

    layers(what) {
      const inside = make("g", { "clip-path": `url(#${this.clip})` });
      const above = make("g");
      for (const layer of what.layers) {
        (layer.above ? above : inside).append(kinds[layer.kind](this.area, layer));
      }
      return [inside, above];
    }

    axes({ x, y }) {
      const { area } = this;
      const group = make("g", { class: "axes" });
      const xs = x.ticks || ticks(x.from, x.to, Math.max(4, Math.floor((area.right - area.left) / 64)));
      const ys = y.ticks || ticks(y.from, y.to, Math.max(4, Math.floor((area.bottom - area.top) / 44)));
      for (const value of ys) {
        const py = round(area.py(value));
        group.append(make("line", { x1: area.left, x2: area.right, y1: py, y2: py, class: "grid" }));
        const text = (y.text || tickText)(value, ys);
        group.append(make("text", { x: area.left - 7, y: py + 3.5, "text-anchor": "end" }, text));
      }
      for (const value of xs) {
        const px = round(area.px(value));
        group.append(make("line", { x1: px, x2: px, y1: area.bottom, y2: area.bottom + 4, class: "tick" }));
        const text = (x.text || tickText)(value, xs);
        group.append(make("text", { x: px, y: area.bottom + 17, "text-anchor": "middle" }, text));
      }
      const base = { x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom, class: "tick" };
      group.append(make("line", base));
      const middle = round((area.left + area.right) / 2);
      const name = { x: middle, y: area.height - 5, "text-anchor": "middle", class: "name" };
      group.append(make("text", name, x.label || ""));
      group.append(make("text", { x: 2, y: 12, class: "name" }, y.label || ""));
      return group;
    }

    /** Call `move(x)` as a pointer passes, `choose(x)` where it presses or drags, `leave()` when it goes. */
    onPointer({ move, choose, leave }) {
      const value = (event) => {
        const box = this.host.getBoundingClientRect();
        const px = ((event.clientX - box.left) / box.width) * this.area.width;
        return this.area.valueAt(px);
      };
      this.host.addEventListener("pointermove", (event) => {
        if (event.buttons) choose(value(event));
        else if (event.pointerType === "mouse") move(value(event));
      });
      this.host.addEventListener("pointerdown", (event) => choose(value(event)));
      this.host.addEventListener("pointerleave", leave);
    }
  }

  return { make, ticks, tickText, Chart, round };
})();
