"""Several queues whose tasks share the slots of one pool: read by weight, and each settled by rules of its own."""
