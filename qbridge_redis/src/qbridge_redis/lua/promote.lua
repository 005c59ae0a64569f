#!lua flags=allow-oom
-- Move messages that are due to the stream: add first, then remove, because a script does not roll back.
-- KEYS stream delayed | ARGV limit   -> {moved, microseconds until the next one or -1}
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local due = redis.call('ZRANGE', KEYS[2], '-inf', string.format('%.0f', now), 'BYSCORE', 'LIMIT', 0, ARGV[1])
for i = 1, #due do
  local ok, held = pcall(cmsgpack.unpack, due[i])
  if ok and type(held) == 'table' and type(held[2]) == 'table' and #held[2] > 0 then
    redis.call('XADD', KEYS[1], '*', unpack(held[2]))
  else -- not written by QBridge: deliver it as a body rather than let it block the others
    redis.call('XADD', KEYS[1], '*', 'body', due[i])
  end
  redis.call('ZREM', KEYS[2], due[i])
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if not first[2] then return { #due, -1 } end
return { #due, math.max(0, tonumber(first[2]) - now) }
