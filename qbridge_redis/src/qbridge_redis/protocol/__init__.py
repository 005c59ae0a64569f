"""What QBridge keeps on a Redis server: keys, the fields of entries, and the Lua scripts that work on them."""
