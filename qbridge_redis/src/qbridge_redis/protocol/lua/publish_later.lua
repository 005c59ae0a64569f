-- Hold a message back until it is due by the server's clock (microseconds); members are unique through their first part.
-- KEYS stream delayed | ARGV unique delay_us field value...   -> 1 held, nil when there is no such queue
if redis.call('EXISTS', KEYS[1]) == 0 then return nil end
local time = redis.call('TIME')
local due = time[1] * 1000000 + time[2] + ARGV[2]
local fields = {}
for i = 3, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('ZADD', KEYS[2], string.format('%.0f', due), cmsgpack.pack({ ARGV[1], fields }))
return 1
