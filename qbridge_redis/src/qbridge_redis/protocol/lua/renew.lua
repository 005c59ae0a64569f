-- Reset the idle time of entries that this consumer still holds. XCLAIM alone does not look at the owner and would steal.
-- An entry that nobody holds and that is there comes back by itself (the group was made anew): it is not lost.
-- KEYS stream | ARGV group consumer id...   -> {ids that others hold or have finished, ids that were deleted while held}
local mine, lost, deleted = {}, {}, {}
for i = 3, #ARGV do
  local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if row and row[2] == ARGV[2] then
    mine[#mine + 1] = ARGV[i]
  elseif row or #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i]) == 0 then
    lost[#lost + 1] = ARGV[i]
  end
end
if #mine > 0 then
  local claim, renewed = { unpack(mine) }, {}
  claim[#claim + 1] = 'JUSTID'
  for _, id in ipairs(redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(claim))) do renewed[id] = true end
  for _, id in ipairs(mine) do
    if not renewed[id] then deleted[#deleted + 1] = id end
  end
end
return { lost, deleted }
