-- Remove finished entries for good. No MULTI: a full Redis 7.0 refuses any transaction, and then nothing could drain it.
-- XDEL first: when the user lacks the right to it, nothing has happened yet; without that to XACK the entry is gone for good
-- and the rest can be done later, while an entry that was only acknowledged would stay in the stream for ever.
-- KEYS stream | ARGV group id...   -> how many were pending
redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
return redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 2))
