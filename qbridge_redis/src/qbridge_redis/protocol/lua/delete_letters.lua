-- Delete entries that no consumer holds.
-- KEYS dead | ARGV group id...   -> ids that are deleted
local deleted = {}
for i = 2, #ARGV do
  local row = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  if (row.err or #row == 0) and redis.call('XDEL', KEYS[1], ARGV[i]) == 1 then deleted[#deleted + 1] = ARGV[i] end
end
return deleted
