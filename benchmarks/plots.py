"""The figures of the documentation: ``python -m benchmarks.plots RESULTS DIRECTORY``, run where matplotlib is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.contestants import BODIES, CONSUME, GROWTH, LATENCY, PEER, PUBLISH, QBRIDGE
from benchmarks.results import Results, Row

mpl.use("Agg")
_COLOURS = {QBRIDGE: "#1f6f8b", PEER: "#b8b8b8", "raw": "#e0a030"}
_NAMES = {"rabbitmq": "RabbitMQ", "redis": "Redis"}
_GROWTH = {
    "waiting": "messages waiting",
    "thread": "threads",
    "bodies of": "length of the body",
    "prefetch": "prefetch",
    "send_many of": "published by one send_many",
}


def bars(results: Results, measurement: str, figure: str, factor: float, label: str, path: Path) -> None:
    """One panel for each broker, a bar for each contestant."""
    rows = {broker: _ranked(results.rows(measurement, broker), figure) for broker in _NAMES}
    if not any(rows.values()):
        return
    tallest = max(map(len, rows.values()))
    canvas, panels = plt.subplots(1, 2, figsize=(10, 0.6 + 0.27 * tallest), layout="constrained")
    for panel, (broker, ranked) in zip(panels, rows.items(), strict=True):
        names = [_name(row) for row in ranked]
        values = [row.figures[figure] * factor for row in ranked]
        drawn = panel.barh(names, values, color=[_COLOURS[row.kind] for row in ranked])
        panel.bar_label(drawn, fmt="{:,.1f}" if factor != 1 else "{:,.0f}", padding=2, fontsize=7)
        panel.set_title(_NAMES[broker], fontsize=9)
        panel.margins(x=0.15)
        _plain(panel, label)
    canvas.savefig(path, dpi=110)


def _ranked(rows: list[Row], figure: str) -> list[Row]:
    return sorted((row for row in rows if figure in row.figures), key=lambda row: row.figures[figure])


def _name(row: Row) -> str:
    return f"{row.contestant}, {row.label}" if row.label else row.contestant


def growth(results: Results, path: Path) -> None:
    """Tasks a second over what grows, a line for each broker."""
    rows = results.rows(GROWTH) + results.rows(BODIES, kind=QBRIDGE)
    if not rows:
        return
    canvas, grid = plt.subplots(2, 3, figsize=(10, 5), layout="constrained")
    panels = list(grid.flat)
    for panel, (word, label) in zip(panels, _GROWTH.items(), strict=False):
        for broker, name in _NAMES.items():
            points = [row for row in rows if row.broker == broker and word in row.label and "per_second" in row.figures]
            labels = [row.label.replace(word, "").strip(" s") for row in points]
            if points:
                panel.plot(labels, [row.figures["per_second"] for row in points], marker="o", label=name)
        panel.set_ylim(bottom=0)
        _plain(panel, label)
        panel.set_ylabel("a second", fontsize=8)
    panels[0].legend(fontsize=8)
    panels[-1].remove()
    canvas.savefig(path, dpi=110)


def _plain(panel: Any, label: str) -> None:
    panel.set_xlabel(label, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)


def main(source: Path, directory: Path) -> None:
    """Draw everything that was measured."""
    results = Results.load(source)
    directory.mkdir(parents=True, exist_ok=True)
    bars(results, CONSUME, "per_second", 1, "tasks a second", directory / "consume.png")
    bars(results, PUBLISH, "per_second", 1, "confirmed messages a second", directory / "publish.png")
    bars(results, LATENCY, "p50", 1e3, "publish to handler, p50, ms", directory / "latency.png")
    growth(results, directory / "growth.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
