#!lua flags=allow-oom
-- Write the next state of a delivery, then remove it, in this order: a script does not roll back, so a copy that cannot be
-- written leaves the delivery pending. Only for the consumer that holds it. allow-oom: a full Redis must be drained.
-- KEYS stream delayed away | ARGV group consumer id mode(back retry dead move) delay_us message_id field value...
--   -> 1 done, 0 not held by this consumer, -1 the entry was deleted under its holder, -2 too many fields for a script
local stream, group, id, mode = KEYS[1], ARGV[1], ARGV[3], ARGV[4]
local held = redis.pcall('XPENDING', stream, group, id, id, 1, ARGV[2])
local groupless = held.err and string.find(held.err, 'NOGROUP', 1, true)
if held.err and not groupless then return held end
if not groupless and #held == 0 then return 0 end
local entry = redis.call('XRANGE', stream, id, id)[1]
if not entry then return -1 end
if #entry[2] + #ARGV > MOST then return -2 end
-- Without the right to remove the original, each call would make another copy: find out before.
redis.call('XDEL', stream, '0-0')
redis.call('XACK', stream, group, '0-0')

local fields, replaced, named, first, sent = {}, {}, false, true, nil
for i = 7, #ARGV, 2 do replaced[ARGV[i]] = true end
for i = 1, #entry[2], 2 do
  local name = entry[2][i]
  -- x-qbridge-header-<name> is a producer's header; the rest of the prefix is QBridge's and is written anew.
  local own = string.sub(name, 1, 10) == 'x-qbridge-' and string.sub(name, 1, 17) ~= 'x-qbridge-header-'
  if name == 'message_id' then named = true end
  if own then first = false end
  if name == 'x-qbridge-sent-at-ms' then
    sent = entry[2][i + 1]
  elseif not replaced[name] and (mode == 'back' or not own) then
    fields[#fields + 1] = name
    fields[#fields + 1] = entry[2][i + 1]
  end
end
if not named and ARGV[6] ~= '' then
  fields[#fields + 1] = 'message_id'
  fields[#fields + 1] = ARGV[6]
end
if first and string.find(id, '^%d%d%d%d%d%d%d%d%d%d%d%d%d') then -- no copy: its id tells when it was sent
  sent = string.match(id, '^%d+')
end
if sent then
  fields[#fields + 1] = 'x-qbridge-sent-at-ms'
  fields[#fields + 1] = sent
end
for i = 7, #ARGV do fields[#fields + 1] = ARGV[i] end
if #fields == 0 then fields = { 'body', '' } end

local delay = tonumber(ARGV[5])
local away = mode == 'dead' or mode == 'move'
if away then
  local made = redis.pcall('XGROUP', 'CREATE', KEYS[3], group, '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
end
if delay > 0 then
  local time = redis.call('TIME')
  local due = string.format('%.0f', time[1] * 1000000 + time[2] + delay)
  redis.call('ZADD', KEYS[2], due, cmsgpack.pack({ id, fields }))
else
  redis.call('XADD', away and KEYS[3] or stream, '*', spread(fields, 1, #fields))
end
redis.call('XACK', stream, group, id)
redis.call('XDEL', stream, id)
return 1
