"""The benchmark: QBridge, its peers and the bare clients, measured side by side in one run; see docs/performance.md."""
