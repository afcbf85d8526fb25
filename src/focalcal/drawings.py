r"""The three figures about the focal calibration map, for papers and slides (matplotlib).

Each `draw_…` function draws one panel on given axes; `figures` writes them all.

References
----------
Komisarenko and Kull, ECAI 2024, arXiv 2408.11598.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from focalcal._settings import check_choice, check_gamma, optional_module
from focalcal.io.files import written_aside
from focalcal.maps import binary_focal_map, temperature_bounds
from focalcal.scores import focal_loss

FORMATS = ("svg", "pdf", "png")

#: Okabe and Ito's colours, each with a line style of its own: told apart in grey, too.
_LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#0072b2", "linestyle": "-"},
    {"color": "#d55e00", "linestyle": (0, (6, 2))},
    {"color": "#009e73", "linestyle": (0, (5, 1.5, 1, 1.5))},
    {"color": "#cc79a7", "linestyle": (0, (1.5, 1.5))},
)
_PLAIN: dict[str, Any] = {"color": "0.45", "linewidth": 1, "linestyle": (0, (1, 2))}

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.6,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # text that journals can embed and readers can search
    "svg.hashsalt": "focalcal",
}

#: What would make two runs differ.
_METADATA: dict[str, dict[str, None]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {},
}

#: Log-odds at which curves against probability are computed.
_ODDS = np.linspace(-12, 12, 961)


def figures(folder: str | os.PathLike[str], formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write the three figures about the focal calibration map.

    Parameters
    ----------
    folder : path-like
        Where to write; made if it is not there.
    formats : sequence of {"svg", "pdf", "png"}
        Each figure is written as each of them; png with 300 dots an inch.

    Returns
    -------
    list of pathlib.Path
        ``figure1_loss``, ``figure2_temperature`` and ``figure3_bounds`` in each format. The same matplotlib
        writes the same bytes in every run.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        For another format.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in figures(folder, ["svg"])]
    ['figure1_loss.svg', 'figure2_temperature.svg', 'figure3_bounds.svg']
    """
    if isinstance(formats, str):
        formats = (formats,)
    for kind in formats:
        check_choice("format", kind, FORMATS)
    matplotlib = optional_module("matplotlib", "figures", "plot")
    optional_module("matplotlib.figure", "figures", "plot")
    os.makedirs(folder, exist_ok=True)
    written = []
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE}):
        for name, panels in FIGURES.items():
            figure = matplotlib.figure.Figure(figsize=(6.9, 2.9), layout="constrained")
            for ax, draw in zip(figure.subplots(1, len(panels)), panels):
                draw(ax)
            figure.get_layout_engine().execute(figure)
            figure.set_layout_engine("none")  # the same for every format, and found once
            for kind in formats:
                path = Path(folder, f"{name}.{kind}")
                with written_aside(path) as aside:
                    figure.savefig(aside, format=kind, metadata=_METADATA[kind])
                written.append(path)
    return written


def draw_losses(ax: Any, gammas: Sequence[float] = (1, 3)) -> None:
    """Draw focal loss and its proper part, in nats, against the probability of the class that came true."""
    q = expit(_ODDS)
    for gamma, look, width in zip(gammas, _LOOKS, (2, 1.1, 0.7)):
        loss = _focal_loss(_ODDS, gamma)
        colour = {"color": look["color"], "linewidth": width}
        ax.plot(q, loss, **colour, label=rf"$\mathrm{{FL}}_{{{gamma:g}}}$")
        # the proper part takes the same value where the map leads
        mapped = expit(binary_focal_map(_ODDS, gamma))
        ax.plot(mapped, loss, **colour, linestyle=(0, (5, 2)), label=rf"$L_{{{gamma:g}}}$, its proper part")
    ax.plot(q, _focal_loss(_ODDS, 0), **_PLAIN, label="cross-entropy")
    ax.set(xlim=(0, 1), ylim=(0, 4), xlabel="probability of the true class", ylabel="loss (nats)")
    ax.legend()


def draw_maps(ax: Any, gammas: Sequence[float] = (-0.5, 1, 3, 10)) -> None:
    """Draw the binary focal calibration map."""
    ax.plot([0, 1], [0, 1], **_PLAIN, label=r"$\gamma = 0$")
    for gamma, look in zip(gammas, _LOOKS):
        mapped = expit(binary_focal_map(_ODDS, gamma))
        ax.plot(expit(_ODDS), mapped, **look, label=rf"$\gamma = {gamma:g}$")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="$q$", ylabel=r"$\varphi_\gamma(q)$")
    ax.legend(loc="upper left")


def draw_temperatures(ax: Any, gammas: Sequence[float] = (1, 3)) -> None:
    """Draw the map and, as circles, the best single temperature."""
    ax.plot([0, 1], [0, 1], **_PLAIN)
    some = np.arange(1, 20) / 20
    odds = logit(some)
    for gamma, look in zip(gammas, _LOOKS):
        temperature = best_temperature(gamma)[0]
        mapped = expit(binary_focal_map(_ODDS, gamma))
        ax.plot(expit(_ODDS), mapped, **look, label=rf"$\varphi_{{{gamma:g}}}$")
        marks = {"linestyle": "", "marker": "o", "markersize": 3.2, "markerfacecolor": "none"}
        label = rf"$T = {temperature:.3f}$"
        ax.plot(some, expit(odds / temperature), **marks, color=look["color"], label=label)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="$q$", ylabel="probability after")
    ax.legend(loc="upper left")


def draw_differences(ax: Any, gammas: Sequence[float] = (0.5, 1, 2, 3)) -> None:
    """Draw the map less the best single temperature, in thousandths of probability."""
    ax.axhline(0, **_PLAIN)
    for gamma, look in zip(gammas, _LOOKS):
        gap = expit(binary_focal_map(_ODDS, gamma)) - expit(_ODDS / best_temperature(gamma)[0])
        ax.plot(expit(_ODDS), 1000 * gap, **look, label=rf"$\gamma = {gamma:g}$")
    low, high = ax.get_ylim()
    ylabel = r"$\varphi_\gamma$ less best temperature ($10^{-3}$)"
    ax.set(xlim=(0, 1), ylim=(low, high + 0.3 * (high - low)), xlabel="$q$", ylabel=ylabel)
    ax.legend(loc="upper center", ncols=2)


def draw_bounds(ax: Any, gamma: float = 3) -> None:
    """Draw the map in log-odds, between the two temperatures that bound it."""
    s = np.linspace(-5, 5, 201)
    low, high = temperature_bounds(gamma)
    ax.fill_between(s, s / low, s / high, color="0.88", linewidth=0)
    ax.plot(s, s, **_PLAIN)
    names = (r"$T = 1/(\gamma+1)$", r"$T = 1/(\gamma+1-\frac{1}{2}\log(\gamma+1))$")
    one = 1 / (gamma + 1)
    for temperature, name, look in zip((one, low + high - one), names, _LOOKS[1:]):
        ax.plot(s, s / temperature, **look, label=name)
    ax.plot(s, binary_focal_map(s, gamma), **_LOOKS[0], label=rf"$\psi_{{{gamma:g}}}(s)$")
    ax.set(xlim=(-5, 5), xlabel="log-odds $s$", ylabel="log-odds after")
    ax.legend(loc="upper left")


def draw_implied_temperature(ax: Any, gammas: Sequence[float] = (-0.5, 1, 3)) -> None:
    """Draw the temperature that does what the map does, within its bounds, against log-odds."""
    s = np.linspace(1e-3, 12, 400)
    for gamma, look in zip(gammas, _LOOKS):
        low, high = temperature_bounds(gamma)
        ax.fill_between([0, 12], low, high, color=look["color"], alpha=0.13, linewidth=0)
        ax.plot(s, s / binary_focal_map(s, gamma), **look, label=rf"$\gamma = {gamma:g}$")
    ax.set(xlim=(0, 12), ylim=(0, None), xlabel="log-odds $|s|$", ylabel=r"temperature $s/\psi_\gamma(s)$")
    ax.legend(loc="center left", bbox_to_anchor=(0, 0.45), ncols=len(gammas), columnspacing=1.2)


#: File name to panels, from left to right.
FIGURES: dict[str, tuple[Callable[[Any], None], ...]] = {
    "figure1_loss": (draw_losses, draw_maps),
    "figure2_temperature": (draw_temperatures, draw_differences),
    "figure3_bounds": (draw_bounds, draw_implied_temperature),
}


def best_temperature(gamma: float) -> tuple[float, float]:
    """Return the temperature that is nearest to the binary focal map, and how near.

    Parameters
    ----------
    gamma : float
        Focal parameter γ ≥ −1.

    Returns
    -------
    tuple of float
        T, and the largest difference in probability, which no other T makes smaller.

    Examples
    --------
    >>> temperature, difference = best_temperature(1.0)
    >>> round(temperature, 3), round(difference, 4)
    (0.561, 0.0008)
    """
    gamma = check_gamma(gamma)
    if gamma == 0:
        return 1.0, 0.0
    s = np.linspace(0, 16 / (1 + max(gamma, 0)), 2001)[1:]
    mapped = binary_focal_map(s, gamma)

    def worst(log_temperature: float) -> float:
        return float(np.abs(expit(mapped) - expit(s * np.exp(-log_temperature))).max())

    # each |difference| is a valley in T, so their maximum is one, between the extremes of s/ψ(s)
    ratio = np.log(s / mapped)
    bounds = (float(ratio.min()), float(ratio.max()))
    found = minimize_scalar(worst, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    return float(np.exp(found.x)), float(found.fun)


def _focal_loss(odds: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    scores = np.stack([np.zeros_like(odds), odds], axis=1)
    return focal_loss(scores, np.ones(len(odds), np.int64), gamma)
