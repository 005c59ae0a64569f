-- Name the entries that have not been renewed for so long. Those of this consumer itself are renewed if a lease has passed:
-- they may be running, so they are never taken over.
-- KEYS stream | ARGV group consumer idle_ms lease_ms limit
--   -> {milliseconds of the server's clock, {{id, consumer, idle_ms, deliveries}...} of others, own overdue ids}
local stream, group, me = KEYS[1], ARGV[1], ARGV[2]
local own, others = {}, {}
for _, row in ipairs(redis.call('XPENDING', stream, group, 'IDLE', ARGV[4], '-', '+', 1000, me)) do
  own[#own + 1] = row[1]
end
if #own > 0 then
  local claim = { unpack(own) }
  claim[#claim + 1] = 'JUSTID'
  redis.call('XCLAIM', stream, group, me, 0, unpack(claim))
end
if redis.REDIS_VERSION_NUM < 0x70200 then
  -- Be seen: to Redis 7.0 a consumer for which there is nothing does not even exist. Behind this id it holds nothing.
  redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', 1, 'STREAMS', stream, '18446744073709551614-0')
end
for _, row in ipairs(redis.call('XPENDING', stream, group, 'IDLE', ARGV[3], '-', '+', ARGV[5])) do
  if row[2] ~= me then others[#others + 1] = row end
end
local time = redis.call('TIME')
return { time[1] * 1000 + math.floor(time[2] / 1000), others, own }
