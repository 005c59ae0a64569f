"""Formats of messages: how a task stands in a body and its headers, as QBridge and as others write it."""
