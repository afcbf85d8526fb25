"""What a page's sliders are set to, and the numbers it then shows."""

import math

RAISED = {ord(c): d for c, d in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True)}


def number(text):
    """A number as the page shows it, e.g. "−2.28 · 10⁻⁴" or "5.11 %"."""
    text = text.replace("−", "-").replace("∞", "inf").removesuffix(" %")
    front, _, power = text.partition(" · 10")
    return float(front) * 10.0 ** int(power.translate(RAISED) or 0)


def shown(page, name):
    return page.inner_text(f"#{name}")


def place(page, name, value):
    """Set a slider as a user's drag would."""
    page.eval_on_selector(
        f"#{name}", "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(value)
    )


def like(text, truth, digits):
    """Whether a shown number is the true one rounded; half a unit of the last digit, and rounding's own."""
    return abs(number(text) - truth) <= 0.50001 * 10.0**-digits


def significant(text, truth):
    return math.isclose(
        number(text), truth, rel_tol=6e-3 if "10" in text and "·" in text else 1e-3, abs_tol=6e-5
    )
