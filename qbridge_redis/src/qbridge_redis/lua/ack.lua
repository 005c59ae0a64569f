-- Remove finished entries for good. No MULTI: a full Redis 7.0 refuses any transaction, and then nothing could drain it.
-- KEYS stream | ARGV group id...   -> how many were pending
local acked = redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 2))
redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
return acked
