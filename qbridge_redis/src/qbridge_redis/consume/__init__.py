"""Reads queues."""
