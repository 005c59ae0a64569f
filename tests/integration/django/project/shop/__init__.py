"""An app with tasks of both kinds."""
