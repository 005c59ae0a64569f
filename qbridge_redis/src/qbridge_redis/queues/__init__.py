"""Looks at queues and dead letters, without consuming them, and at what a user may do with them."""
