"""Takes messages from a queue, has them run, and settles them with the broker: the ``TaskManager`` and its parts."""
