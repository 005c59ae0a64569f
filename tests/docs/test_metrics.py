"""The page on metrics lists all of them, with their labels."""

from __future__ import annotations

import re

from qbridge_core.telemetry.catalogue import METRICS
from support.pages import DOCS


def test_the_page_lists_every_metric_with_its_labels() -> None:
    """Names, kinds, labels and texts are those of the code, in its order."""
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(qbridge_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", text, re.MULTILINE)
    shown = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), about.strip()) for name, kind, labels, about in rows]
    assert shown == [(metric.name, metric.kind, metric.labels, metric.text) for metric in METRICS]
