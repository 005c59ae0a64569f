"""What a process tells of itself to whoever watches it: pages over HTTP."""
