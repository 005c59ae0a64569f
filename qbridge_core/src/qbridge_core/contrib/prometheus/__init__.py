"""Metrics for Prometheus; needs the extra ``prometheus``."""

from qbridge_core.contrib.prometheus.metrics import Metrics

__all__ = ["Metrics"]
