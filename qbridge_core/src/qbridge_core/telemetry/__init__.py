"""What a process tells of itself to whoever watches it: what it has counted, and pages over HTTP."""
