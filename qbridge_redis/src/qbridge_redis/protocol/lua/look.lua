-- Look at what there is to tell of a queue beyond its counts. A stream that is missing, or that lacks the group, has nothing.
-- KEYS stream | ARGV group alive_ms nobody
--   -> {consumers that did something in the last alive_ms and stand for somebody, milliseconds for which the first entry
--      that nobody has read has been there, entries that have ever come, entries that are there}
if redis.call('EXISTS', KEYS[1]) == 0 then return { 0, 0, 0, 0 } end
local function named(row)
  local values = {}
  for i = 1, #row, 2 do values[row[i]] = row[i + 1] end
  return values
end
local consumers, read = 0, '0-0'
for _, row in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = named(row)
  if group.name == ARGV[1] then
    read = group['last-delivered-id']
    for _, other in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
      local consumer = named(other)
      local is_nobody = string.sub(consumer.name, 1, #ARGV[3]) == ARGV[3]
      if consumer.idle <= tonumber(ARGV[2]) and not is_nobody then consumers = consumers + 1 end
    end
  end
end
local age, first = 0, redis.call('XRANGE', KEYS[1], '(' .. read, '+', 'COUNT', 1)[1]
if first then
  local time = redis.call('TIME')
  age = math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(string.match(first[1], '^%d+')))
end
local stream = named(redis.call('XINFO', 'STREAM', KEYS[1]))
return { consumers, age, stream['entries-added'], stream.length }
