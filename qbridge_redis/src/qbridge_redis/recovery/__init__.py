"""Keeps leases alive, takes over what dead workers held, and decides which deaths count against a message."""
