"""One small program for each contestant, run by the interpreter of its own environment."""
