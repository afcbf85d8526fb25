"use strict";

/** The figures of two classes: the losses, the map, and the temperatures beside it. */
const binary = (() => {
  const { state, byId, text, digits, pointed } = controls;
  const HEIGHT = (width) => Math.min(340, Math.max(230, width * 0.72));
  const UNIT = { from: 0, to: 1, ticks: [0, 0.25, 0.5, 0.75, 1] };
  const LOGITS = Array.from({ length: 561 }, (_, i) => -14 + (28 * i) / 560);
  const END = 5.5; // log-odds shown

  const say = (id, value) => {
    byId(id).textContent = value;
  };
  const curve = (f) => LOGITS.map((s) => [maths.sigmoid(s), f(s)]);

  let known = { gamma: NaN };

  /** The best single temperature for the γ of the moment. */
  function best() {
    if (known.gamma !== state.gamma) known = { gamma: state.gamma, ...maths.bestTemperature(state.gamma) };
    return known;
  }

  function lossChart(width) {
    const { gamma, rescaled } = state;
    const scale = rescaled ? 2 ** gamma : 1;
    const q = pointed();
    const s = maths.logit(q);
    const mapped = maths.sigmoid(maths.psi(s, gamma));
    const level = scale * maths.focalLoss(s, gamma);
    const layers = [
      { kind: "line", style: "reference", points: curve((t) => maths.softplus(-t)) },
      { kind: "line", style: "focal", points: curve((t) => scale * maths.focalLoss(t, gamma)) },
      {
        // the same loss at the place the map moves it to: no root to be found
        kind: "line",
        style: "proper",
        points: LOGITS.map((t) => [maths.sigmoid(maths.psi(t, gamma)), scale * maths.focalLoss(t, gamma)]),
      },
      { kind: "segment", style: "cursor", from: [q, 0], to: [q, level] },
      { kind: "segment", style: "move", from: [q, level], to: [mapped, level] },
      { kind: "dot", style: "focal", at: [q, level] },
      { kind: "dot", style: "proper", at: [mapped, level] },
    ];
    const unit = rescaled ? "loss in nats, focal ones × 2^γ" : "loss in nats";
    const label =
      `Cross-entropy, focal loss and its proper part against probability for γ = ${text(gamma, 2)}: ` +
      `at ${text(q, 3)} the focal loss is ${digits(level / scale)} nats`;
    const x = { ...UNIT, label: "probability of the class that came true" };
    return { height: HEIGHT(width), x, y: { from: 0, to: 4, label: unit }, layers, label };
  }

  function mapChart(width) {
    const { gamma } = state;
    const q = pointed();
    const phi = maths.sigmoid(maths.psi(maths.logit(q), gamma));
    const layers = [
      { kind: "segment", style: "reference", from: [0, 0], to: [1, 1] },
      { kind: "line", style: "map", points: curve((s) => maths.sigmoid(maths.psi(s, gamma))) },
      { kind: "segment", style: "cursor", from: [q, 0], to: [q, phi] },
      { kind: "segment", style: "cursor", from: [0, phi], to: [q, phi] },
      { kind: "dot", style: "map", at: [q, phi] },
    ];
    const label = `The focal calibration map for γ = ${text(gamma, 2)}: ${text(q, 3)} becomes ${text(phi, 4)}`;
    const x = { ...UNIT, label: "probability q before the map" };
    return { height: HEIGHT(width), x, y: { ...UNIT, label: "φ(q) after the map" }, layers, label };
  }

  function twinChart(width) {
    const { gamma, temperature } = state;
    const q = pointed();
    const s = maths.logit(q);
    const layers = [
      { kind: "segment", style: "reference", from: [0, 0], to: [1, 1] },
      { kind: "line", style: "temperature", points: curve((t) => maths.sigmoid(t / temperature)) },
      { kind: "line", style: "map", points: curve((t) => maths.sigmoid(maths.psi(t, gamma))) },
      { kind: "segment", style: "cursor", from: [q, 0], to: [q, 1] },
      { kind: "dot", style: "temperature", at: [q, maths.sigmoid(s / temperature)] },
      { kind: "dot", style: "map", at: [q, maths.sigmoid(maths.psi(s, gamma))] },
    ];
    const label = `The map for γ = ${text(gamma, 2)} and temperature scaling with T = ${text(temperature, 3)}`;
    const x = { ...UNIT, label: "probability q" };
    return { height: HEIGHT(width), x, y: { ...UNIT, label: "probability after" }, layers, label };
  }

  const difference = (s) =>
    maths.sigmoid(maths.psi(s, state.gamma)) - maths.sigmoid(s / state.temperature);

  function largestDifference() {
    let worst = [0.5, 0];
    for (let i = 1; i <= 600; i++) {
      const s = (i * 12) / 600 / (1 + Math.max(0, state.gamma / 2));
      const value = difference(s);
      if (Math.abs(value) > Math.abs(worst[1])) worst = [maths.sigmoid(s), value];
    }
    return worst;
  }

  function differenceChart(width) {
    const [, worst] = largestDifference();
    const size = Math.max(Math.abs(worst) * 1.05, 1e-6);
    const power = 10 ** Math.floor(Math.log10(size));
    const reach = [1, 2, 5, 10].map((step) => step * power).find((step) => step >= size);
    const unit = [0, 3, 6].find((places) => reach >= 10 ** -places) || 0;
    const q = pointed();
    const value = difference(maths.logit(q));
    const layers = [
      { kind: "segment", style: "reference", from: [0, 0], to: [1, 0] },
      { kind: "line", style: "gap", points: curve(difference) },
      { kind: "segment", style: "cursor", from: [q, 0], to: [q, value] },
      { kind: "dot", style: "gap", at: [q, value] },
    ];
    const y = {
      from: -reach,
      to: reach,
      ticks: [-reach, -reach / 2, 0, reach / 2, reach],
      text: (v) => String(Number((v * 10 ** unit).toPrecision(3))).replace("-", "−"),
    };
    const label = `Map less temperature scaling: at most ${digits(Math.abs(worst))} in probability`;
    const x = { ...UNIT, label: "probability q" };
    const shown = { ...y, label: `difference${["", "", "", " × 1,000", "", "", " × 1,000,000"][unit]}` };
    return { height: HEIGHT(width), x, y: shown, layers, label };
  }

  function oddsChart(width) {
    const { gamma } = state;
    const psi = (s) => maths.psi(s, gamma);
    const points = Array.from({ length: 121 }, (_, i) => -END + (2 * END * i) / 120);
    const layers = [{ kind: "segment", style: "reference", from: [-END, -END], to: [END, END] }];
    let reach = Math.abs(psi(END));
    if (gamma > -1) {
      const [low, high] = maths.temperatureBounds(gamma);
      reach = Math.max(reach, Math.min(END / low, 3 * END * (1 + Math.max(0, gamma))));
      const ray = (t) => points.map((s) => [s, s / t]);
      layers.push({ kind: "band", style: "bounds", lower: ray(high), upper: ray(low) });
      layers.push({ kind: "line", style: "bound low", points: ray(low) });
      layers.push({ kind: "line", style: "bound high", points: ray(high) });
    }
    const s = maths.logit(pointed());
    layers.push({ kind: "line", style: "map", points: points.map((t) => [t, psi(t)]) });
    layers.push({ kind: "segment", style: "cursor", from: [s, 0], to: [s, psi(s)] });
    layers.push({ kind: "dot", style: "map", at: [s, psi(s)] });
    const x = { from: -END, to: END, label: "log-odds s = log q/(1 − q)" };
    const y = { from: -reach * 1.04, to: reach * 1.04, label: "log-odds after the map, ψ(s)" };
    const label = `Log-odds after the map against log-odds before, between two temperatures, γ = ${text(gamma, 2)}`;
    return { height: HEIGHT(width), x, y, layers, label };
  }

  const implied = (s, gamma) => (Math.abs(s) < 1e-9 ? 1 / maths.slopeAtHalf(gamma) : s / maths.psi(s, gamma));

  function impliedChart(width) {
    const { gamma } = state;
    const points = Array.from({ length: 101 }, (_, i) => (END * i) / 100).map((s) => [s, implied(s, gamma)]);
    const values = points.map(([, t]) => t);
    const bounds = gamma > -1 ? maths.temperatureBounds(gamma) : [];
    // below γ = 0 the upper bound runs off to infinity: it may leave the chart, the curve may not
    const near = bounds.filter((t) => t < 2.5 * Math.max(...values));
    const [low, high] = [Math.min(...values, ...near), Math.max(...values, ...near)];
    const space = 0.18 * (high - low) || 0.1;
    const layers = bounds.map((t, i) => ({
      kind: "segment", style: `bound ${i ? "high" : "low"}`, from: [0, t], to: [END, t],
    }));
    if (bounds.length) {
      const side = (t) => [[0, t], [END, t]];
      layers.unshift({ kind: "band", style: "bounds", lower: side(bounds[0]), upper: side(bounds[1]) });
    }
    const s = Math.abs(maths.logit(pointed()));
    layers.push({ kind: "line", style: "map", points });
    layers.push({ kind: "segment", style: "cursor", from: [s, low - space], to: [s, implied(s, gamma)] });
    layers.push({ kind: "dot", style: "map", at: [s, implied(s, gamma)] });
    const x = { from: 0, to: END, label: "log-odds |s|" };
    const y = { from: Math.max(0, low - space), to: high + space, label: "temperature that does the same, s/ψ(s)" };
    const label = `The temperature that does what the map does, against log-odds, γ = ${text(gamma, 2)}`;
    return { height: HEIGHT(width), margin: { left: 54 }, x, y, layers, label };
  }

  function words() {
    const { gamma, temperature } = state;
    const q = pointed();
    const s = maths.logit(q);
    const mapped = maths.psi(s, gamma);
    for (const element of document.querySelectorAll("[data-show=q]")) element.textContent = text(q, 3);
    for (const element of document.querySelectorAll("[data-show=gamma]")) element.textContent = text(gamma, 2);
    say("cross-entropy", digits(maths.softplus(-s)));
    say("focal-loss", digits(maths.focalLoss(s, gamma)));
    say("proper-loss", digits(maths.properLoss(s, gamma)));
    say("mapped", digits(maths.sigmoid(mapped)));
    say("mapped-loss", digits(maths.properLoss(mapped, gamma)));
    const slope = maths.properSlope(gamma);
    say("slope", `${digits(slope)} times as steep as`);
    say("slope-word", slope < 1 ? "flatter" : slope > 1 ? "steeper" : "as steep");
    say("scale", digits(2 ** gamma));
    say("twin-map", digits(maths.sigmoid(mapped)));
    say("twin-temperature", digits(maths.sigmoid(s / temperature)));
    say("twin-difference", digits(difference(s)));
    const [place, worst] = largestDifference();
    say("worst", digits(Math.abs(worst)));
    say("worst-at", text(place, 3));
    say("odds", text(s, 3));
    say("odds-mapped", text(mapped, 3));
    say("implied", digits(implied(s, gamma)));
    const bounds = gamma > -1 ? maths.temperatureBounds(gamma).map(digits) : ["none", "none"];
    say("bound-low", bounds[0]);
    say("bound-high", bounds[1]);
    const swapped = "Below γ = 0 the two bounds have changed places.";
    say("swap", gamma === -1 ? "At γ = −1 there are no bounds." : gamma < 0 ? swapped : "");
  }

  function start() {
    const toQ = (x) => x;
    const specs = [
      ["chart-loss", lossChart, toQ],
      ["chart-map", mapChart, toQ],
      ["chart-twin", twinChart, toQ],
      ["chart-difference", differenceChart, toQ],
      ["chart-odds", oddsChart, maths.sigmoid],
      ["chart-implied", impliedChart, maths.sigmoid],
    ];
    for (const [id, describe, turn] of specs) {
      const chart = new charts.Chart(byId(id), describe);
      controls.point(chart, turn);
      controls.onChange(() => chart.update());
    }
    controls.onChange(words);
  }

  return { start, best, implied, largestDifference };
})();
