"use strict";

(() => {
  const { byId, state, start, text } = controls;
  const held = JSON.parse(byId("data").textContent);

  controls.slider("gamma", "gamma", { show: (gamma) => text(gamma, 2) });
  controls.slider("q", "q", { show: (q) => text(q, 3), changes: { pointed: null } });
  // before the slider of T shows it, and before anything is drawn with it
  controls.onChange(() => {
    if (state.best) state.temperature = binary.best().temperature;
  });
  controls.slider("temperature", "temperature", {
    show: (t) => text(t, 3),
    from: (value) => Math.exp(Number(value)),
    to: Math.log,
    changes: { best: false },
  });
  controls.slider("a", "a", { show: (a) => text(a, 3) });
  controls.slider("share", "share", { show: (share) => text(share, 3) });

  const best = byId("best");
  best.addEventListener("change", () => controls.set({ best: best.checked }));
  for (const radio of document.querySelectorAll("input[name=scale]")) {
    radio.addEventListener("change", () => controls.set({ rescaled: radio.value === "rescaled" }));
  }
  controls.onChange(() => {
    best.checked = state.best;
    byId(state.rescaled ? "scale-rescaled" : "scale-nats").checked = true;
    for (const button of document.querySelectorAll("[data-gamma]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.gamma) === state.gamma));
    }
  });
  for (const button of document.querySelectorAll("[data-gamma]")) {
    button.addEventListener("click", () => controls.glide({ gamma: Number(button.dataset.gamma) }));
  }
  const geometry = ["gamma", "q", "a", "share"];
  byId("reset").addEventListener("click", () => {
    const target = Object.fromEntries(geometry.map((key) => [key, start[key]]));
    controls.glide(target, { best: true, rescaled: false, pointed: null });
  });

  binary.start();
  simplex.start();
  predictions.start(held);
  controls.set({});
})();
