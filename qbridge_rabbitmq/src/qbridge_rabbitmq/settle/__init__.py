"""How a delivery ends: acknowledged, handed back, tried again, or dead-lettered."""
