"""What ``qbridge send`` consists of: its input, its tasks, its progress."""
