"""Tasks as functions with names: :class:`~qbridge_core.App` sends them and works them off, with the parts below it."""
