#!lua flags=allow-oom
-- Create the group at the very beginning, so that everything in the stream is delivered. allow-oom: workers that start
-- while Redis is full are what empties it.
-- KEYS stream | ARGV group create(1 or 0)   -> 1 created, 0 existed, -1 there is no stream and none may be made
if ARGV[2] == '0' and redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local reply = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if not reply.err then return 1 end
if string.find(reply.err, 'BUSYGROUP', 1, true) then return 0 end
return reply
