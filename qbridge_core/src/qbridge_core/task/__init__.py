"""One task: its message read, its run, what the handler asks for or raises, and what the retry policy makes of it."""
