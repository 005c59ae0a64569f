"""Consuming from a queue: its channel, its consumer, the prefetch, and what waits to be taken."""
