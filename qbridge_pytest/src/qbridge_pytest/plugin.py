"""What pytest loads with each run: as little as can be."""
