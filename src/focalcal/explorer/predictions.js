"use strict";

/** A user's own predictions at any temperature and γ. */
const predictions = (() => {
  const { byId, text } = controls;
  const percent = (value) => `${text(100 * value, 2)} %`;
  const count = (n) => n.toLocaleString("en-US");
  const RAW = { temperature: 1, gamma: 0 };
  const own = { t: 1, g: 0 };
  let data = null;
  let found = null;

  function diagram(width) {
    const layers = [{ kind: "segment", style: "reference", from: [0, 0], to: [1, 1] }];
    for (const bin of found.bins) {
      const style = bin.confidence > bin.rate ? "over" : "under";
      const at = (y) => [bin.confidence, y];
      layers.push({ kind: "segment", style: `${style} wide`, from: at(bin.confidence), to: at(bin.rate) });
      layers.push({ kind: "segment", style: `${style} thin`, from: at(bin.low), to: at(bin.high) });
      layers.push({ kind: "dot", style, at: at(bin.rate), above: true });
    }
    layers.push({ kind: "note", style: "over", at: [0.98, 0.03], anchor: "end", text: "over-confident" });
    layers.push({ kind: "note", style: "under", at: [0.02, 0.95], text: "under-confident" });
    const unit = { from: 0, to: 1, ticks: [0, 0.2, 0.4, 0.6, 0.8, 1] };
    const x = { ...unit, label: "" };
    const label = `Reliability diagram at T = ${text(own.t, 3)}, γ = ${text(own.g, 2)}: ECE ${percent(found.ece)}`;
    const height = Math.min(440, width * 0.92);
    return { height, margin: { bottom: 24 }, x, y: { ...unit, label: "hit rate of the top class" }, layers, label };
  }

  function strip() {
    const top = Math.max(...found.bins.map((bin) => bin.share));
    const layers = found.bins.map((bin) => {
      const from = bin.place / judging.BINS;
      return { kind: "bar", style: "share", from, to: from + 1 / judging.BINS, low: 0, high: bin.share };
    });
    const shares = { from: 0, to: top * 1.05, ticks: [0, top], text: (v) => `${Math.round(100 * v)} %` };
    const x = { from: 0, to: 1, ticks: [0, 0.2, 0.4, 0.6, 0.8, 1], label: "confidence" };
    const label = "Share of the rows in each bin of confidence";
    return { height: 116, margin: { top: 22 }, x, y: { ...shares, label: "rows" }, layers, label };
  }

  /** List the bins, while someone looks at the list. */
  function list() {
    if (!byId("bins").open) return;
    const share = (value) => text(100 * value, 1);
    const rows = found.bins.map((bin) => {
      const range = [bin.place, bin.place + 1].map((b) => text(b / judging.BINS, 2)).join("–");
      const interval = `${share(bin.low)}–${share(bin.high)} %`;
      const cells = [count(bin.n), `${share(bin.confidence)} %`, `${share(bin.rate)} %`, interval];
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = range;
      row.append(head, ...cells.map((cell) => Object.assign(document.createElement("td"), { textContent: cell })));
      return row;
    });
    byId("bins").querySelector("tbody").replaceChildren(...rows);
  }

  /** Fill one row of the table of numbers. */
  function tell(id, { nll, nllHalf, ece, chance }) {
    const cells = [
      [text(nll, 4), `± ${text(nllHalf, 4)}`],
      [percent(ece), `by chance ${percent(chance)}`],
    ];
    [...byId(id).querySelectorAll("td")].slice(-2).forEach((cell, i) => {
      const [value, detail] = [document.createElement("b"), document.createElement("small")];
      [value.textContent, detail.textContent] = cells[i];
      cell.replaceChildren(value, " ", detail);
    });
  }

  function parameters(id, { temperature, gamma }) {
    const cells = byId(id).querySelectorAll("td");
    [cells[0].textContent, cells[1].textContent] = [controls.digits(temperature), text(gamma, 3)];
  }

  /** A bound in words; digits beyond the table's would say nothing. */
  function within(value) {
    return value < 1e-4 ? "less than 0.0001" : `at most ${text(value, 4)}`;
  }

  function introduce(held) {
    byId("data-name").textContent = held.name;
    const all = held.n === held.whole ? "all" : `${count(held.n)} of`;
    const drawn = held.n === held.whole ? "" : ", drawn at random";
    const grouped = held.counts.length - held.exact;
    const detail = grouped
      ? `Of each row it keeps the logits of the label and of the ${held.exact - 1} largest other classes, and ` +
        `${grouped} values for the other ${count(held.classes - held.exact)}: each stands for neighbours in size.`
      : `Of each row it keeps the ${held.classes} logits less the largest, the label's first.`;
    byId("data-what").textContent =
      `This page holds ${all} ${count(held.whole)} rows${drawn}, of ${count(held.classes)} classes. ${detail} ` +
      `Numbers are rounded to float32. For “best” and “as given”, all this moves the NLL by ` +
      `${within(held.off.nll)} nats and the ECE by ${within(100 * held.off.ece)} percentage points.` +
      (held.weights === null ? "" : " Rows count by their weights.");
  }

  function update() {
    const { temperature: t, gamma: g } = { temperature: controls.state.t, gamma: controls.state.g };
    if (found !== null && own.t === t && own.g === g) return false;
    Object.assign(own, { t, g });
    found = judging.judge(data, t, g);
    tell("row-now", found);
    parameters("row-now", { temperature: t, gamma: g });
    byId("data-accuracy").textContent = percent(found.accuracy);
    return true;
  }

  function start(held) {
    if (held === null) return;
    byId("predictions").hidden = false;
    byId("invitation").hidden = true;
    data = judging.open(held);
    controls.set({ t: 1, g: 0 });
    introduce(held);
    const presets = { raw: RAW, ...held.fits };
    for (const [key, { temperature, gamma }] of Object.entries(presets)) {
      tell(`row-${key}`, judging.judge(data, temperature, gamma));
      parameters(`row-${key}`, { temperature, gamma });
      byId(`use-${key}`).addEventListener("click", () => controls.glide({ t: temperature, g: gamma }));
    }
    const scale = { from: (value) => Math.exp(Number(value)), to: Math.log };
    controls.slider("t", "t", { show: (t) => text(t, t < 0.1 ? 4 : 3), ...scale });
    controls.slider("g", "g", { show: (g) => text(g, 2) });
    const both = [new charts.Chart(byId("chart-reliability"), diagram), new charts.Chart(byId("chart-rows"), strip)];
    controls.onChange(() => {
      if (!update()) return;
      for (const chart of both) chart.update();
      list();
    });
    byId("bins").addEventListener("toggle", list);
  }

  return { start, judge: (t, g) => judging.judge(data, t, g) };
})();
