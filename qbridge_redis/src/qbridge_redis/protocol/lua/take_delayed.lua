#!lua flags=allow-oom
-- Deliver messages now that are held back (add first, then remove, because a script does not roll back), or delete them.
-- KEYS stream delayed | ARGV release(1 or 0) due digest...   -> {position of each that was there...}
local done = {}
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
-- Without the right to remove, each call would add another copy: find out before.
redis.call('ZREM', KEYS[2], 'qbridge:probe')
for i = 2, #ARGV, 2 do
  local member
  local same = redis.call('ZRANGE', KEYS[2], ARGV[i], ARGV[i], 'BYSCORE')
  for j = 1, #same do
    if redis.sha1hex(same[j]) == ARGV[i + 1] then member = same[j] end
  end
  local ready = member and true
  if member and ARGV[1] == '1' then
    local ok, held = pcall(cmsgpack.unpack, member)
    local fields = ok and type(held) == 'table' and type(held[2]) == 'table' and held[2] or {}
    if #fields == 0 or #fields > MOST then fields = { 'body', member } end
    for j = 1, #fields - 1, 2 do
      if fields[j] == 'x-qbridge-due-at-ms' then fields[j + 1] = now end
    end
    local reply = redis.pcall('XADD', KEYS[1], '*', spread(fields, 1, #fields))
    if type(reply) == 'table' and reply.err then
      if #done == 0 then return reply end
      ready = false -- it and those behind it stay; the next call says why
    end
  end
  if member and not ready then return done end
  if member then
    redis.call('ZREM', KEYS[2], member)
    done[#done + 1] = i / 2
  end
end
return done
