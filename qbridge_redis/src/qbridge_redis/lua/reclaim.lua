-- Take over entries whose consumer has not renewed them for a lease. Each one's delivery count goes up: it counts crashes.
-- Overdue entries of this consumer itself are only renewed and named, never handed out from here: they may be running.
-- KEYS stream | ARGV group consumer lease_ms cursor count   -> {cursor, {{id, fields, deliveries}...}, own overdue ids}
local stream, group, me = KEYS[1], ARGV[1], ARGV[2]
local own = {}
for _, row in ipairs(redis.call('XPENDING', stream, group, 'IDLE', ARGV[3], '-', '+', 1000, me)) do
  own[#own + 1] = row[1]
end
if #own > 0 then
  local claim = { unpack(own) }
  claim[#claim + 1] = 'JUSTID'
  redis.call('XCLAIM', stream, group, me, 0, unpack(claim))
end
local reply = redis.call('XAUTOCLAIM', stream, group, me, ARGV[3], ARGV[4], 'COUNT', ARGV[5])
local taken = {}
for _, entry in ipairs(reply[2]) do
  local row = redis.call('XPENDING', stream, group, entry[1], entry[1], 1)[1]
  taken[#taken + 1] = { entry[1], entry[2], row[4] }
end
return { reply[1], taken, own }
