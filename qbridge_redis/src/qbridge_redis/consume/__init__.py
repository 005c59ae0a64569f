"""Reads queues: busy ones with a connection each, and all idle ones of a server with one."""
