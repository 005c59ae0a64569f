"""What released versions have left in the brokers, frozen, and the programs that recorded it (README.md)."""
