-- Look at messages that are held back, in the order in which they are due. Each has a name: its due time and a digest.
-- KEYS delayed | ARGV due('' for the beginning) digest(begin behind this one) count content(1 or 0)
--   -> {due, digest, {field, value...}}...
local from, skip = '-inf', 0
if ARGV[1] ~= '' then
  from = ARGV[1]
  local same = redis.call('ZRANGE', KEYS[1], from, from, 'BYSCORE')
  for i = 1, #same do -- when it is gone, those that are due in the same microsecond are seen again
    if redis.sha1hex(same[i]) == ARGV[2] then skip = i end
  end
end
local rows = redis.call('ZRANGE', KEYS[1], from, '+inf', 'BYSCORE', 'LIMIT', skip, ARGV[3], 'WITHSCORES')
local found = {}
for i = 1, #rows, 2 do
  local fields = {}
  if ARGV[4] == '1' then
    local ok, held = pcall(cmsgpack.unpack, rows[i])
    fields = ok and type(held) == 'table' and type(held[2]) == 'table' and held[2] or {}
    if #fields == 0 then fields = { 'body', rows[i] } end -- not written by QBridge: this is how it will be delivered
  end
  found[#found + 1] = { string.format('%.0f', tonumber(rows[i + 1])), redis.sha1hex(rows[i]), fields }
end
return found
