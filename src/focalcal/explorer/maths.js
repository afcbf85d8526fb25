"use strict";

/**
 * The focal calibration map and what belongs to it, in the log domain.
 *
 * A probability q close to 1 has lost what tells it from 1. So the top class is known here by its log-odds
 * against all others, which are summed without it, and 1 − q is never formed from q.
 */
const maths = (() => {
  /** log(1 + e^s). */
  function softplus(s) {
    return s > 0 ? s + Math.log1p(Math.exp(-s)) : Math.log1p(Math.exp(s));
  }

  function sigmoid(s) {
    return 1 / (1 + Math.exp(-s));
  }

  function logit(p) {
    return Math.log(p) - Math.log1p(-p);
  }

  /** log h_γ(q) of a probability of at most one half, from log q. */
  function logH(logQ, gamma) {
    const q = Math.exp(logQ);
    if (q === 0) return logQ; // also where log q is −∞
    return logQ - gamma * Math.log1p(-q) - Math.log1p((-gamma * q * logQ) / (1 - q));
  }

  /**
   * log h_γ(q) of the top class, from the log-odds of all others against it.
   *
   * With x = 1 + q log q/(1 − q), the last factor is x + (1 + γ)(1 − x): no term is negative for γ ≥ −1, so
   * nothing cancels; at γ = −1 only x is left, of which near q = 1 the first terms of a series are kept.
   */
  function logHTop(logOdds, gamma) {
    const odds = Math.exp(logOdds);
    const logQ = -Math.log1p(odds);
    const small = odds < 0.01;
    let series = 1 / 9 - odds / 10;
    for (let k = 8; k > 1; k--) series = 1 / k - odds * series;
    const x = small ? odds * series : 1 + logQ / odds;
    let last = Math.log(x + (1 + gamma) * (1 - x));
    if (gamma === -1) last = small ? logOdds + Math.log(series) : Math.log(x);
    return logQ - gamma * (logOdds + logQ) - last;
  }

  /** Index of the largest value, and log Σ c_j exp(z_j − z_top) over all others. */
  function logOddsOf(z, counts, out) {
    let top = 0;
    for (let j = 1; j < z.length; j++) if (z[j] > z[top]) top = j;
    let second = -Infinity;
    for (let j = 0; j < z.length; j++) if (j !== top && z[j] > second) second = z[j];
    let sum = 0;
    if (second > -Infinity) {
      for (let j = 0; j < z.length; j++) {
        if (j !== top) sum += (counts ? counts[j] : 1) * Math.exp(z[j] - second);
      }
    }
    out.top = top;
    out.logOdds = sum > 0 ? second - z[top] + Math.log(sum) : -Infinity;
    return out;
  }

  const found = { top: 0, logOdds: 0 };

  /**
   * Write log h_γ(softmax(z/T)), which is log φ_γ up to a constant, over a row of logits.
   *
   * `counts` says how many classes share a value; the top class must stand alone. Returns its index.
   */
  function mapRow(z, counts, temperature, gamma) {
    let highest = -Infinity;
    for (let j = 0; j < z.length; j++) if (z[j] > highest) highest = z[j];
    for (let j = 0; j < z.length; j++) z[j] = (z[j] - highest) / temperature;
    logOddsOf(z, counts, found);
    if (gamma === 0 || found.logOdds === -Infinity) return found.top;
    const { top, logOdds } = found;
    const logTop = -Math.log1p(Math.exp(logOdds));
    const half = -Math.LN2;
    for (let j = 0; j < z.length; j++) {
      if (j !== top) z[j] = logH(Math.min(z[j] + logTop, half), gamma);
    }
    z[top] = logHTop(logOdds, gamma);
    return top;
  }

  /** log φ_γ(softmax(z/T)) of a row of logits. */
  function focalMap(logits, gamma, temperature = 1) {
    const z = Float64Array.from(logits);
    mapRow(z, null, temperature, gamma);
    const { top, logOdds } = logOddsOf(z, null, found);
    const highest = z[top];
    const logTop = -Math.log1p(Math.exp(logOdds));
    return Array.from(z, (value, j) => (j === top ? logTop : value - highest + logTop));
  }

  /** ψ_γ(s), the log-odds that the map makes of log-odds s. */
  function psi(s, gamma) {
    if (s === 0 || gamma === 0) return s;
    const odds = -Math.abs(s); // of the smaller of the two classes
    const low = logH(odds - softplus(odds), gamma);
    return Math.sign(s) * (logHTop(odds, gamma) - low);
  }

  /** The s with ψ_γ(s) = t, by bisection between temperatures that bound it: ψ grows. */
  function psiInverse(t, gamma) {
    if (t === 0 || gamma === 0) return t;
    const size = Math.abs(t);
    let low = 0;
    let high = size + 1;
    while (psi(high, gamma) < size) high *= 2;
    for (let i = 0; i < 200 && high - low > 1e-15 * high; i++) {
      const middle = (low + high) / 2;
      if (psi(middle, gamma) < size) low = middle;
      else high = middle;
    }
    return (Math.sign(t) * (low + high)) / 2;
  }

  /** Focal loss, in nats, of a prediction whose class was true, from its log-odds. */
  function focalLoss(s, gamma) {
    // where q is 1 to all digits, 1 − q and −log q are both e^−s, and only their product need be a number
    if (s > 40) return Math.exp(-(1 + gamma) * s);
    return Math.exp(-gamma * softplus(s)) * softplus(-s);
  }

  /** The proper part L_γ, in nats, from the log-odds of the calibrated probability. */
  function properLoss(t, gamma) {
    return focalLoss(psiInverse(t, gamma), gamma);
  }

  /** Both temperatures between which the binary map lies, in rising order; for −1 < γ. */
  function temperatureBounds(gamma) {
    const one = 1 / (gamma + 1);
    const other = 1 / (gamma + 1 - Math.log(gamma + 1) / 2);
    return [Math.min(one, other), Math.max(one, other)];
  }

  /** τ(γ), γ > 0: the map raises every top probability at or above it, for any number of classes. */
  function raisingThreshold(gamma) {
    const excess = (v) =>
      gamma * Math.log1p(-v) + Math.log1p((-gamma * v * Math.log(v)) / (1 - v));
    return root(excess, 1e-3 / (1 + gamma), 1 - 1e-9);
  }

  /** The root of a function that is positive at `low` and negative at `high`. */
  function root(f, low, high) {
    for (let i = 0; i < 100; i++) {
      const middle = (low + high) / 2;
      if (f(middle) > 0) low = middle;
      else high = middle;
    }
    return (low + high) / 2;
  }

  /** ψ_γ'(0), the slope of the map in the log-odds at even odds. */
  function slopeAtHalf(gamma) {
    return gamma + 1 - (gamma * (2 * Math.LN2 - 1)) / (1 + gamma * Math.LN2);
  }

  /** Slope of the proper part at p = ½, as a multiple of cross-entropy's. */
  function properSlope(gamma) {
    return (2 ** -gamma * (1 + gamma * Math.LN2)) / slopeAtHalf(gamma);
  }

  /** The temperature whose largest difference in probability from the binary map is least, and that difference. */
  function bestTemperature(gamma) {
    const end = 16 / (1 + Math.max(gamma, 0));
    const points = Array.from({ length: 500 }, (_, i) => ((i + 1) / 500) * end);
    const mapped = points.map((s) => psi(s, gamma));
    const worst = (logT) => {
      const scale = Math.exp(-logT);
      let largest = 0;
      for (let i = 0; i < points.length; i++) {
        largest = Math.max(largest, Math.abs(sigmoid(mapped[i]) - sigmoid(points[i] * scale)));
      }
      return largest;
    };
    // each |difference| is a valley in T, so their maximum is one too
    const ratios = points.map((s, i) => Math.log(s / mapped[i]));
    const logT = lowest(worst, Math.min(...ratios), Math.max(...ratios));
    return { temperature: Math.exp(logT), difference: worst(logT) };
  }

  /** The lowest point of a function with one valley, by golden sections. */
  function lowest(f, low, high) {
    const golden = (Math.sqrt(5) - 1) / 2;
    for (let i = 0; i < 60; i++) {
      const step = golden * (high - low);
      if (f(high - step) <= f(low + step)) high = low + step;
      else low = high - step;
    }
    return (low + high) / 2;
  }

  return {
    softplus, sigmoid, logit, logH, logHTop, logOddsOf, mapRow, focalMap, psi, psiInverse,
    focalLoss, properLoss, temperatureBounds, raisingThreshold, slopeAtHalf, properSlope, bestTemperature,
  };
})();
