-- Delete a page of entries that no consumer holds.
-- KEYS stream | ARGV group from to count   -> {deleted, last id seen or ''}
local page = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[3], 'COUNT', ARGV[4])
local deleted = 0
for i = 1, #page do
  local row = redis.pcall('XPENDING', KEYS[1], ARGV[1], page[i][1], page[i][1], 1)
  if row.err or #row == 0 then deleted = deleted + redis.call('XDEL', KEYS[1], page[i][1]) end
end
return { deleted, #page > 0 and page[#page][1] or '' }
