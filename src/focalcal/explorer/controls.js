"use strict";

/** What the sliders are set to, and who is told when that changes. */
const controls = (() => {
  const listeners = [];
  const state = { gamma: 2, q: 0.3, pointed: null, temperature: 1, best: true, rescaled: false, a: 0.5, share: 0.6 };
  const start = { ...state };
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const byId = (id) => document.getElementById(id);

  /** Show a number with a true minus sign. */
  function text(value, digits) {
    if (!Number.isFinite(value)) return value > 0 ? "∞" : value < 0 ? "−∞" : "–";
    const shown = value.toFixed(digits);
    return (Number(shown) === 0 ? shown.replace("-", "") : shown).replace("-", "−");
  }

  /** Show a number of unknown size with four digits that count. */
  function digits(value) {
    const size = Math.abs(value);
    if (!Number.isFinite(value) || (size >= 1e-3 && size < 1e5) || size < 1e-300) {
      return text(value, size >= 1000 ? 1 : size >= 1 ? 3 : 4);
    }
    const [front, power] = value.toExponential(2).split("e");
    const raised = [...String(Number(power))].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");
    return `${front.replace("-", "−")} · 10${raised}`;
  }

  /** Change some of the state and tell everyone. */
  function set(changes) {
    Object.assign(state, changes);
    for (const listener of listeners) listener(state);
  }

  function onChange(listener) {
    listeners.push(listener);
  }

  /** Tie a range input to one number; `from` and `to` translate between the slider's scale and the number's. */
  function slider(id, key, { show, spoken = show, from = Number, to = (value) => value, changes = {} }) {
    const input = byId(id);
    const output = byId(`${id}-value`);
    input.addEventListener("input", () => {
      stop();
      set({ [key]: from(input.value), ...changes });
    });
    onChange(() => {
      // while it is dragged the slider knows better where it is
      if (from(input.value) !== state[key]) input.value = to(state[key]);
      output.textContent = show(state[key]);
      input.setAttribute("aria-valuetext", spoken(state[key]));
    });
  }

  let frame = 0;

  function stop() {
    cancelAnimationFrame(frame);
  }

  /** Move some numbers to where they should be: at once, or in a third of a second where motion is welcome. */
  function glide(target, changes = {}) {
    stop();
    if (calm.matches) {
      set({ ...target, ...changes });
      return;
    }
    const origin = Object.fromEntries(Object.keys(target).map((key) => [key, state[key]]));
    const began = performance.now();
    const step = (now) => {
      const part = Math.min(1, Math.max(0, now - began) / 350);
      const eased = 1 - (1 - part) ** 3;
      const between = Object.keys(target).map((key) => [key, origin[key] + eased * (target[key] - origin[key])]);
      set(part < 1 ? { ...Object.fromEntries(between), ...changes } : { ...target, ...changes });
      if (part < 1) frame = requestAnimationFrame(step);
    };
    frame = requestAnimationFrame(step);
  }

  /** The prediction that is looked at: under the pointer, else the chosen one. */
  function pointed() {
    return state.pointed === null ? state.q : state.pointed;
  }

  /** Let a chart's x move the prediction; `toQ` turns it into a probability. */
  function point(chart, toQ) {
    const within = (x) => Math.min(0.995, Math.max(0.005, toQ(x)));
    chart.onPointer({
      move: (x) => set({ pointed: within(x) }),
      choose: (x) => set({ q: Math.round(within(x) * 200) / 200, pointed: null }),
      leave: () => state.pointed !== null && set({ pointed: null }),
    });
  }

  return { state, start, set, onChange, slider, glide, text, digits, byId, pointed, point };
})();
