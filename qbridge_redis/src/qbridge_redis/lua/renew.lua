-- Reset the idle time of entries that this consumer still holds. XCLAIM alone does not look at the owner and would steal.
-- KEYS stream | ARGV group consumer id...   -> the ids that it holds no longer
local held, lost = {}, {}
for i = 3, #ARGV do
  local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
  local list = #row == 1 and held or lost
  list[#list + 1] = ARGV[i]
end
if #held > 0 then
  held[#held + 1] = 'JUSTID'
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(held))
end
return lost
