"""Consuming from a queue: its channel, its consumer, the prefetch, what waits to be taken, and the deliveries."""
