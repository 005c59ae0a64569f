"""An app that has an App of its own."""
