"""What was delivered on a channel and is not settled: the state that the parts of a client share."""
