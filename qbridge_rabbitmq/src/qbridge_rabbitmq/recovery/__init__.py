"""After a loss of a connection or the death of a worker: what came back, what came twice, what may be poison."""
