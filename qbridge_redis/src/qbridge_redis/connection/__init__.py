"""Connections to one server: settings, the way there, the pool, errors, and what the log says of an outage."""
