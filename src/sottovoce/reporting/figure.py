"""A figure for plotly.js, as plain data, with its numbers as a table.

Colours are names of the page's CSS variables (``var(--teacher)``); the page puts in the values of the light or dark scheme. Every text
that comes from a file goes through `label`, because plotly reads a little HTML in texts.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FONT = "system-ui, sans-serif"


@dataclass(frozen=True)
class Table:
    """The numbers of a chart. left: so many columns are text, the rest are numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclass(frozen=True)
class Chart:
    """figure: ``data`` and ``layout`` for plotly; ``None`` where there is too little to plot, so that the table stands alone.

    height: in pixels. says: what is seen, for those who do not see it.
    """

    id: str
    title: str
    figure: Mapping[str, Any] | None
    table: Table
    note: str = ""
    height: int = 320
    says: str = ""
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # other figures in the same place, by key
    legend: Sequence[tuple[str, str, str]] = ()  # name, colour, and sign: dot, diamond, cross, line or dash


def label(text: str) -> str:
    """Escapes a text, so that plotly shows it as it is."""
    return html.escape(text, quote=False)


def layout(xaxis: Mapping[str, Any], yaxis: Mapping[str, Any]) -> dict[str, Any]:
    axis = {
        "gridcolor": "var(--grid)",
        "linecolor": "var(--line)",
        "tickcolor": "var(--line)",
        "zeroline": False,
        "fixedrange": True,
        "tickfont": {"color": "var(--muted)"},
    }
    return {
        "font": {"family": FONT, "size": 12, "color": "var(--ink)"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 12, "t": 12, "b": 44},
        "hoverlabel": {
            "bgcolor": "var(--panel)",
            "bordercolor": "var(--line)",
            "font": {"family": FONT, "color": "var(--ink)"},
            "align": "left",
        },
        "dragmode": False,
        "showlegend": False,
        "xaxis": {**axis, **_titled(xaxis)},
        "yaxis": {**axis, **_titled(yaxis)},
    }


def beside(y: float, text: str) -> dict[str, Any]:
    """A text right of the line at height `y`, in a margin of 52 pixels."""
    font = {"size": 12, "color": "var(--ink)"}
    return {"x": 1, "xref": "paper", "xanchor": "right", "xshift": 46, "y": y, "text": text, "showarrow": False, "font": font}


def _titled(axis: Mapping[str, Any]) -> dict[str, Any]:
    if "title" not in axis:
        return dict(axis)
    return {**axis, "title": {**axis["title"], "standoff": 8, "font": {"size": 12, "color": "var(--muted)"}}}


def all_of(charts: Iterable[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]
