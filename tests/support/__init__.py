"""What the tests share: real brokers, a proxy that breaks connections, and a way to wait."""
