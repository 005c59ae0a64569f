"""Plugins for what others have made: each needs an extra, and nothing is active before somebody names it."""
