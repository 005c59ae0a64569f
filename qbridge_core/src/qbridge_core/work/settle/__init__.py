"""How a delivery ends: what its run's end leads to, and how the broker is made to agree."""
