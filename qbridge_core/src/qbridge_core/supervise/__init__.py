"""Several worker processes under one that starts them, watches them and starts them again."""
