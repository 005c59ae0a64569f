"""Connections: each has one thread, which is made anew when it does not answer."""
