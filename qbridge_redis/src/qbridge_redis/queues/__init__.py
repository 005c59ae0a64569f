"""Looks at queues and dead letters without consuming them, and delivers what was delayed."""
