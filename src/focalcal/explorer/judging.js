"use strict";

/** NLL, ECE and the bins behind a reliability diagram, as the library computes them. */
const judging = (() => {
  const BINS = 15;
  const Z = 1.959963984540054; // of a 95 % interval

  function decode(text) {
    return Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  }

  /** Turn what the page holds into arrays; the label's logit is the first of each row. */
  function open(held) {
    return {
      n: held.n,
      width: held.counts.length,
      counts: Float64Array.from(held.counts),
      logits: new Float32Array(decode(held.logits)),
      hits: new Uint8Array(decode(held.hits)),
      weights: held.weights === null ? null : new Float32Array(decode(held.weights)),
    };
  }

  /** The bin (l, u] of a confidence. */
  function binOf(confidence) {
    for (let b = 0; b < BINS - 1; b++) if (confidence <= (b + 1) / BINS) return b;
    return BINS - 1;
  }

  const odds = { top: 0, logOdds: 0 };

  /** Negative log-likelihood and confidence of one row at (T, γ). */
  function score(row, counts, temperature, gamma) {
    maths.mapRow(row, counts, temperature, gamma);
    const { top, logOdds } = maths.logOddsOf(row, counts, odds);
    const others = Math.exp(logOdds);
    const above = row[0] === row[top] ? 0 : row[top] - row[0];
    return [above + Math.log1p(others), 1 / (1 + others)];
  }

  /** Judge all rows at (T, γ). */
  function judge(data, temperature, gamma) {
    const bins = Array.from({ length: BINS }, () => ({ n: 0, weight: 0, squared: 0, confidence: 0, hits: 0 }));
    const row = new Float64Array(data.width);
    const losses = new Float64Array(data.n);
    let [total, sum, right] = [0, 0, 0];
    for (let i = 0; i < data.n; i++) {
      const weight = data.weights ? data.weights[i] : 1;
      if (weight === 0) continue;
      for (let j = 0; j < data.width; j++) row[j] = data.logits[i * data.width + j];
      const [nll, confidence] = score(row, data.counts, temperature, gamma);
      losses[i] = nll;
      const bin = bins[binOf(confidence)];
      bin.n += 1;
      bin.weight += weight;
      bin.squared += weight * weight;
      bin.confidence += weight * confidence;
      bin.hits += weight * data.hits[i];
      total += weight;
      sum += weight * nll;
      right += weight * data.hits[i];
    }
    const shown = bins.filter((bin) => bin.weight > 0).map((bin) => finish(bin, total));
    const nll = sum / total;
    return {
      nll,
      nllHalf: Z * deviation(data, losses, nll, total),
      accuracy: right / total,
      ece: shown.reduce((error, bin) => error + bin.share * Math.abs(bin.confidence - bin.rate), 0),
      chance: shown.reduce((error, bin) => error + bin.share * byChance(bin), 0),
      bins: shown,
    };
  }

  /** Standard error of the weighted mean loss. */
  function deviation(data, losses, mean, total) {
    let [sum, squared] = [0, 0];
    for (let i = 0; i < data.n; i++) {
      const weight = data.weights ? data.weights[i] : 1;
      if (weight === 0) continue;
      squared += weight * weight;
      sum += (weight * (losses[i] - mean)) ** 2;
    }
    const n = total ** 2 / squared;
    return Math.sqrt((sum * n) / (n - 1)) / total;
  }

  /** Means of a bin, and Wilson's interval of its hit rate. */
  function finish(bin, total) {
    const count = bin.weight ** 2 / bin.squared;
    const rate = bin.hits / bin.weight;
    const scale = 1 + Z ** 2 / count;
    const centre = (rate + Z ** 2 / (2 * count)) / scale;
    const half = (Z * Math.sqrt((rate * (1 - rate)) / count + (Z / (2 * count)) ** 2)) / scale;
    return {
      place: binOf(bin.confidence / bin.weight),
      n: bin.n,
      count,
      share: bin.weight / total,
      confidence: bin.confidence / bin.weight,
      rate,
      low: rate === 0 ? 0 : centre - half,
      high: rate === 1 ? 1 : centre + half,
    };
  }

  /** log n!, by Stirling's series beyond the first few. */
  function logFactorial(n) {
    let [x, shift] = [n + 1, 0];
    for (; x < 12; x++) shift += Math.log(x);
    const series = 1 / (12 * x) - 1 / (360 * x ** 3) + 1 / (1260 * x ** 5);
    return (x - 0.5) * Math.log(x) - x + Math.log(2 * Math.PI) / 2 + series - shift;
  }

  /** The mean gap that a bin shows by chance if its confidence is its true hit rate (de Moivre). */
  function byChance({ confidence: p, count }) {
    const n = Math.max(1, Math.round(count));
    if (p <= 0 || p >= 1) return 0;
    const k = Math.min(n, Math.floor(n * p) + 1);
    const log =
      k * Math.log(p) + (n - k + 1) * Math.log1p(-p) + logFactorial(n) - logFactorial(k - 1) - logFactorial(n - k);
    return (2 * Math.exp(log)) / n;
  }

  return { open, judge, binOf, BINS };
})();
