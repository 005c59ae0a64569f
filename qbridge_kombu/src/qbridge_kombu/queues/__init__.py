"""Queues: what is counted, listed, replayed, and held back for later."""
