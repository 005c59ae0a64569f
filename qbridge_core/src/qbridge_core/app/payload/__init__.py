"""What travels for a task: an object keyed by the names of a function's parameters, each of them of a type."""
