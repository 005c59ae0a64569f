"""Which server is the right one, as Sentinel or a cluster says, and whether it can keep the guarantees."""
