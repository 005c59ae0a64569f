#!lua flags=allow-oom
-- Write the next state of a delivery whose entry was deleted under its holder (FLUSHALL, DEL, XTRIM): the only copy left is
-- the one in the worker's memory.
-- KEYS stream delayed away | ARGV group id mode(back retry dead move) delay_us field value...
--   -> 1 done, 0 the entry is there after all, and is delivered again, -2 too many fields for a script
if #redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2]) > 0 then return 0 end
if #ARGV > MOST then return -2 end
redis.call('XACK', KEYS[1], ARGV[1], '0-0') -- without the right to it, each call would make another copy: find out before
local delay, fields = tonumber(ARGV[4]), {}
for i = 5, #ARGV do fields[#fields + 1] = ARGV[i] end
local away = ARGV[3] == 'dead' or ARGV[3] == 'move'
if away then
  local made = redis.pcall('XGROUP', 'CREATE', KEYS[3], ARGV[1], '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
end
if delay > 0 then
  local time = redis.call('TIME')
  local due = string.format('%.0f', time[1] * 1000000 + time[2] + delay)
  redis.call('ZADD', KEYS[2], due, cmsgpack.pack({ ARGV[2], fields }))
else
  redis.call('XADD', away and KEYS[3] or KEYS[1], '*', spread(fields, 1, #fields))
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return 1
