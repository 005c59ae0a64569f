"""Runs handlers: in a worker's thread, on an event loop, or in child processes."""
