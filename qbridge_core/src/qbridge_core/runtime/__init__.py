"""What lies beneath everything: clock, log, threads, signals, forks and processes of the operating system."""
