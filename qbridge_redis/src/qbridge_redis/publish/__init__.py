"""Publishes messages and waits for their confirmation."""
