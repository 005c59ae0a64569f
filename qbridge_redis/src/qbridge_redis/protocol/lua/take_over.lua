-- Take over entries with whom nothing has happened since they were looked at. Their delivery counts go up: they count
-- crashes. Entries that were deleted are dropped from the group by that.
-- KEYS stream | ARGV group consumer tolerance_ms (id consumer deliveries renewed_ms least_idle_ms)...
--   -> {{id, fields, deliveries, former consumer}...}
-- renewed_ms: by the server's clock; -1 where the clock was put back, so that the time lies in the future.
local stream, group, tolerance = KEYS[1], ARGV[1], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local taken = {}
for i = 4, #ARGV, 5 do
  local id, renewed = ARGV[i], tonumber(ARGV[i + 3])
  local row = redis.call('XPENDING', stream, group, id, id, 1)[1]
  local same = row and row[2] == ARGV[i + 1] and row[4] == tonumber(ARGV[i + 2]) and row[3] >= tonumber(ARGV[i + 4])
  if same and renewed < 0 then
    same = row[3] == 0
  elseif same then
    same = math.abs(now - row[3] - renewed) <= tolerance
  end
  if same then
    local entry = redis.call('XCLAIM', stream, group, ARGV[2], 0, id)[1]
    if entry then taken[#taken + 1] = { id, entry[2], row[4] + 1, row[2] } end
  end
end
return taken
