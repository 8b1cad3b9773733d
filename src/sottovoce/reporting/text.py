"""Numbers and names as people read them."""

from __future__ import annotations

from collections.abc import Iterable

NONE = "–"  # where there is no number
SPACE = "\u00a0"
ACRONYMS = {"wer", "cer", "per", "eer", "der", "mtwv", "f1", "map", "mse", "mae"}
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(value: float | None, unit: str = "") -> str:
    """Three digits and a prefix: '1.27 M', '131 MMAC/s' (with unit 'MAC/s'), '512'."""
    if value is None:
        return NONE
    for size, prefix in PREFIXES:
        if abs(value) >= size * 0.9995:
            return f"{_three(value / size)}{SPACE}{prefix}{unit}"
    plain = str(int(value)) if value == int(value) else _three(value)
    return f"{plain}{SPACE}{unit}" if unit else plain


def mark(value: float) -> str:
    """A tick mark of an axis: '50 M', '2.5 G'."""
    for size, prefix in PREFIXES:
        if value >= size:
            return f"{value / size:.3g}{SPACE}{prefix}"
    return f"{value:.3g}"


def measure(name: str, unit: str = "") -> str:
    """'accuracy, %', 'WER, %'."""
    shown = name.upper() if name.lower() in ACRONYMS else name.replace("_", " ")
    return f"{shown}, {unit}" if unit else shown


def _three(value: float) -> str:
    size = abs(value)
    return f"{value:.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"


def number(value: float | None, decimals: int) -> str:
    """With a true minus, and never '-0.0'."""
    if value is None:
        return NONE
    made = f"{value:.{decimals}f}"
    return made.replace("-", "−") if float(made) else f"{0:.{decimals}f}"


def decimals(values: Iterable[float | None], unit: str) -> int:
    """How many decimals a column needs: one for percentages, else three digits of the largest value."""
    if unit == "%":
        return 1
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return 3 if largest < 1 else 2 if largest < 10 else 1 if largest < 100 else 0


def rate(value: float) -> str:
    """A learning rate: '1e-4', '0.01'."""
    if value and not 1e-3 <= abs(value) < 1000:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.3g}"


def percent(share: float, places: int = 1) -> str:
    return f"{100 * share:.{places}f}{SPACE}%"


def duration(seconds: float | None) -> str:
    """'2 h 05 min', '3 min 20 s', '12 s', '0.8 s'."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f}{SPACE}s"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}{SPACE}h {whole % 3600 // 60:02d}{SPACE}min"
    return f"{whole // 60}{SPACE}min {whole % 60:02d}{SPACE}s" if whole >= 60 else f"{whole}{SPACE}s"


def hours(value: float | None) -> str:
    """Audio: '960 h', '1.35 h', '12 min'."""
    if value is None:
        return NONE
    if value < 1:
        return f"{60 * value:.0f}{SPACE}min" if 60 * value >= 1 else f"{3600 * value:.0f}{SPACE}s"
    return f"{_three(value) if value < 1000 else format(value, ',.0f')}{SPACE}h"


def short(text: str, length: int = 26) -> str:
    """With the middle left out when it is longer: names differ at their ends."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[-tail:]}"
