"""The picture of a bench: one SVG that needs nothing from another host."""

from __future__ import annotations

import re
import sys
from typing import Any, Final
from xml.sax.saxutils import escape

from counterfoil.proof.bench.report import LATENCY_TARGETS_MS

_WIDTH: Final = 1000
_CHART_HEIGHT: Final = 380
_STYLE: Final[dict[str, Any]] = {
    "background": "white",
    "plot_background": "white",
    "foreground": "#333",
    "foreground_strong": "#111",
    "foreground_subtle": "#777",
    "colors": ("#0b6e4f", "#9aa5b1", "#e3c565"),
    "font_family": "Helvetica, Arial, sans-serif",
    "title_font_size": 19,
    "label_font_size": 14,
    "major_label_font_size": 14,
    "legend_font_size": 14,
    "value_font_size": 14,
    "value_label_font_size": 14,
}


def draw_picture(report: dict[str, Any]) -> str:
    """Draw throughput beside pgbench and the latencies as one SVG without any reference to another host."""
    charts = [_throughput_chart(report), _latency_chart(report)]
    machine = report["machine"]
    facts = (
        f"{machine['cores']} cores of {machine['cpu']}, PostgreSQL {machine['postgresql']}, Python {machine['python']};"
        f" load generator and PostgreSQL on the same cores. {report['violations']} violations"
        f" in {report['orders_acknowledged']:,} acknowledged orders."
    )
    height = _CHART_HEIGHT * len(charts) + 40
    size = f'width="{_WIDTH}" height="{height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_WIDTH} {height}">']
    parts.append(f'<rect {size} fill="white"/>')
    for number, chart in enumerate(charts):
        parts.append(f'<g transform="translate(0 {number * _CHART_HEIGHT})">{_embed(chart)}</g>')
    parts.append(
        f'<text x="{_WIDTH // 2}" y="{height - 16}" text-anchor="middle" font-family="Helvetica, Arial, sans-serif"'
        f' font-size="13" fill="#555">{escape(facts)}</text></svg>'
    )
    return "\n".join(parts)


def _throughput_chart(report: dict[str, Any]) -> Any:
    chart = _bar_chart("Orders per second, 64 clients (medians of the rounds)", series=2)
    labels = {"uniform": "uniform: 3 of 10,000 products", "hot": "hot: everybody wants one product"}
    names = [name for name in labels if name in report]
    chart.x_labels = [f"{labels[name]} ({report[name]['ratio']:.2f} to 1)" for name in names]
    chart.add("Counterfoil over HTTP", [report[name]["orders_per_s"] for name in names])
    chart.add("pgbench, one order per transaction", [report[name]["pgbench_per_s"] for name in names])
    return chart


def _latency_chart(report: dict[str, Any]) -> Any:
    chart = _bar_chart("Latency in ms (orders at 100/s, pages of 50 orders at 20/s)", series=3)
    chart.value_formatter = lambda value: f"{value:.1f}"
    kinds = {"create": "place an order", "pay": "pay an order", "get": "read an order", "list": "list 50 orders"}
    chart.x_labels = list(kinds.values())
    for percent in ("p50", "p99"):
        chart.add(percent, [report["latency_ms"][f"{kind}_{percent}"] for kind in kinds])
    chart.add("target for p99", [LATENCY_TARGETS_MS[kind] for kind in kinds])
    return chart


def _bar_chart(title: str, *, series: int) -> Any:
    pygal = _import_pygal()
    return pygal.Bar(
        title=title,
        style=pygal.style.Style(**_STYLE),
        width=_WIDTH,
        height=_CHART_HEIGHT,
        legend_at_bottom=True,
        legend_at_bottom_columns=series,
        print_values=True,
        print_values_position="top",
        value_formatter=lambda value: f"{value:,.0f}",
        show_y_guides=False,
        rounded_bars=2,
        truncate_label=-1,
        margin=20,
        js=(),
        explicit_size=True,
        disable_xml_declaration=True,
    )


def _import_pygal() -> Any:
    """Import pygal, and take back the import hook that it installs.

    The hook serves map plug-ins that we do not have, by a protocol that Python has given up: with it, every later
    import of something absent warns.
    """
    import pygal
    import pygal.style

    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]
    return pygal


def _embed(chart: Any) -> str:
    drawn: str = chart.render(is_unicode=True)
    # Neither scripts (a page or a repository shows the picture) nor comments (they name the library's home page).
    return re.sub(r"<!--.*?-->|<script.*?</script>", "", drawn, flags=re.DOTALL)
