#!lua flags=allow-oom
-- Move messages that are due to the stream: add first, then remove, because a script does not roll back.
-- One that cannot be added waits another minute, so that it never stops those behind it.
-- KEYS stream delayed | ARGV limit   -> {moved, microseconds until the next one or -1, why one could not be moved or ''}
local function add(...)
  local reply = redis.pcall('XADD', KEYS[1], '*', ...)
  return type(reply) == 'table' and reply.err
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local due = redis.call('ZRANGE', KEYS[2], '-inf', string.format('%.0f', now), 'BYSCORE', 'LIMIT', 0, ARGV[1])
-- Without the right to remove, each call would add another copy: find out before.
if #due > 0 then redis.call('ZREM', KEYS[2], 'qbridge:probe') end
local why = ''
for i = 1, #due do
  local ok, held = pcall(cmsgpack.unpack, due[i])
  local fields = ok and type(held) == 'table' and type(held[2]) == 'table' and held[2] or {}
  local problem = (#fields == 0 or #fields > MOST) and 'not written by QBridge' or add(spread(fields, 1, #fields))
  if problem then -- deliver it as a body rather than not at all
    local again = add('body', due[i])
    if again == problem and not string.find(again, 'too large', 1, true) then return { err = again } end -- not its fault
    problem = again
  end
  if problem then
    why = problem
    redis.call('ZADD', KEYS[2], 'XX', string.format('%.0f', now + 60000000), due[i])
  else
    redis.call('ZREM', KEYS[2], due[i])
  end
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if not first[2] then return { #due, -1, why } end
return { #due, math.max(0, tonumber(first[2]) - now), why }
