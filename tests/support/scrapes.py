"""Reads the pages of a process as Prometheus does."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

Series = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a sample, and its labels."""


def read(address: str) -> tuple[int, bytes]:
    """Status and body of a page; status 0 where nobody listens."""
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read()
    except OSError:
        return 0, b""


class Scrapes:
    """Scrapes a page again and again, and sees to it that nothing goes back that must only grow.

    Args:
        address: of the page.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._grown: dict[Series, float] = {}

    def look(self) -> Mapping[Series, float]:
        """All samples; none where nobody listens yet.

        Raises:
            AssertionError: a counter, a bucket, a count or a sum is lower than before, or gone.
        """
        status, body = read(self._address)
        if not status:
            return {}
        assert status == 200, body
        grown: dict[Series, float] = {}
        all_samples: dict[Series, float] = {}
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                series = sample.name, tuple(sorted(sample.labels.items()))
                all_samples[series] = sample.value
                if family.type in ("counter", "histogram"):
                    grown[series] = sample.value
        back = {key: (value, grown.get(key)) for key, value in self._grown.items() if grown.get(key, -1.0) < value}
        assert not back, f"these went back: {back}"
        self._grown = grown
        return all_samples

    def value(self, name: str, **labels: str) -> float | None:
        """Of one series, now."""
        return self.look().get((name, tuple(sorted(labels.items()))))
