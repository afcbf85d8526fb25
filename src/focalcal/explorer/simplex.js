"use strict";

/** Three classes: where the map takes every point of the triangle of probabilities. */
const simplex = (() => {
  const { state, byId, text } = controls;
  const NAMES = ["A", "B", "C"];
  const HIGH = Math.sqrt(3) / 2;
  const LEAST = 0.005;

  /** The chosen point: A's probability, and B's share of what is left. */
  function chosen() {
    const rest = 1 - state.a;
    return [state.a, rest * state.share, rest * (1 - state.share)];
  }

  function mapped(q, gamma) {
    return maths.focalMap(q.map(Math.log), gamma).map(Math.exp);
  }

  /** Where probabilities lie: A on top, B left, C right, all sides of length 1. */
  function place([a, b, c]) {
    return [c + a / 2, HIGH * a];
  }

  function outline(points) {
    return points.map(place);
  }

  /** Lines on which one class keeps its probability, ten of each class. */
  const GRID = [0, 1, 2].flatMap((k) =>
    Array.from({ length: 9 }, (_, i) => {
      const fixed = (i + 1) / 10;
      return Array.from({ length: 41 }, (_, j) => {
        const part = Math.min(Math.max(j / 40, 1e-4), 1 - 1e-4) * (1 - fixed);
        const q = [part, 1 - fixed - part];
        q.splice(k, 0, fixed);
        return q;
      });
    }),
  );

  function triangle(width) {
    const { gamma } = state;
    const q = chosen();
    const [from, to] = [place(q), place(mapped(q, gamma))];
    const corners = outline([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]);
    const straight = GRID.map((line) => ({ kind: "line", style: "lattice", points: outline([line[0], line[40]]) }));
    const bent = GRID.map((line) => ({
      kind: "line",
      style: "map warped",
      points: outline(line.map((point) => mapped(point, gamma))),
    }));
    const layers = [
      ...straight,
      ...bent,
      { kind: "line", style: "frame", points: corners, above: true },
      { kind: "segment", style: "move strong", from, to, above: true },
      { kind: "dot", style: "origin", at: from, r: 8, above: true },
      { kind: "dot", style: "map", at: to, r: 6, above: true },
      { kind: "note", style: "corner", at: [0.5, HIGH], dy: -10, anchor: "middle", text: "A", above: true },
      { kind: "note", style: "corner", at: [0, 0], dx: -14, dy: 12, anchor: "middle", text: "B", above: true },
      { kind: "note", style: "corner", at: [1, 0], dx: 14, dy: 12, anchor: "middle", text: "C", above: true },
    ];
    const side = width - 56;
    const margin = { left: 28, right: 28, top: 30, bottom: 22 };
    const none = { ticks: [], label: "" };
    const values = (p) => p.map((v) => text(v, 3)).join(", ");
    return {
      height: side * HIGH + 52,
      margin,
      x: { from: 0, to: 1, ...none },
      y: { from: 0, to: HIGH, ...none },
      layers,
      label: `Three classes, γ = ${text(gamma, 2)}: q = (${values(q)}) becomes (${values(mapped(q, gamma))})`,
    };
  }

  function words() {
    const { gamma } = state;
    const q = chosen();
    const phi = mapped(q, gamma);
    NAMES.forEach((name, k) => {
      byId(`q-${name}`).textContent = text(q[k], 4);
      byId(`phi-${name}`).textContent = text(phi[k], 4);
      byId(`bar-q-${name}`).style.width = `${100 * q[k]}%`;
      byId(`bar-phi-${name}`).style.width = `${100 * phi[k]}%`;
    });
    const [before, after] = [Math.max(...q), Math.max(...phi)];
    const change = after - before;
    const word = Math.abs(change) < 5e-5 ? "stays at" : change > 0 ? "rises to" : "falls to";
    byId("top-change").textContent =
      `The top probability, ${text(before, 4)}, ${word} ${text(after, 4)}. The order of the classes is kept.`;
    byId("threshold").textContent = condition(gamma);
  }

  /** What is known of the confidence after the map, for any number of classes. */
  function condition(gamma) {
    if (gamma === -1) return "At γ = −1 the map doubles the odds of a confident prediction.";
    if (gamma < 0) return "For −1 < γ < 0 the map lowers the confidence of very sure predictions.";
    if (gamma === 0) return "At γ = 0 the map leaves every point where it is.";
    return (
      `For any number of classes, the map raises a top probability of τ(${text(gamma, 2)}) = ` +
      `${text(maths.raisingThreshold(gamma), 3)} or more; in every search made it did so with three classes. ` +
      "It is no law below τ: with ten classes and γ = 1, (0.13, 9 × 0.0967) becomes 0.1294 at the top."
    );
  }

  /** Move the point to where a pointer is, kept inside the triangle. */
  function follow(host, chart, event) {
    const box = host.getBoundingClientRect();
    const scale = chart.area.width / box.width;
    const x = chart.area.valueAt((event.clientX - box.left) * scale);
    const side = chart.area.right - chart.area.left;
    const y = (chart.area.bottom - (event.clientY - box.top) * scale) / side;
    const a = Math.min(1 - 2 * LEAST, Math.max(LEAST, y / HIGH));
    const c = Math.min(1 - a - LEAST, Math.max(LEAST, x - a / 2));
    const share = Math.min(1 - LEAST, Math.max(LEAST, (1 - a - c) / (1 - a)));
    controls.set({ a, share });
  }

  function start() {
    const host = byId("chart-simplex");
    const chart = new charts.Chart(host, triangle);
    host.addEventListener("pointerdown", (event) => {
      host.setPointerCapture(event.pointerId);
      follow(host, chart, event);
    });
    host.addEventListener("pointermove", (event) => {
      if (host.hasPointerCapture(event.pointerId)) follow(host, chart, event);
    });
    controls.onChange(() => chart.update());
    controls.onChange(words);
  }

  return { start, chosen, mapped };
})();
