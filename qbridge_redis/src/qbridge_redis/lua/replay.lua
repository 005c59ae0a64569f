#!lua flags=allow-oom
-- Send dead letters back as their producer wrote them: copy first, then delete. Those that a consumer holds stay.
-- KEYS dead target | ARGV group id...   -> how many went, nil when there is no target
if redis.call('EXISTS', KEYS[2]) == 0 then return nil end
local sent = 0
for i = 2, #ARGV do
  local row = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if entry and (row.err or #row == 0) then
    local fields = {}
    for j = 1, #entry[2], 2 do
      local name = entry[2][j]
      if string.sub(name, 1, 10) ~= 'x-qbridge-' or string.sub(name, 1, 17) == 'x-qbridge-header-' then
        fields[#fields + 1] = name
        fields[#fields + 1] = entry[2][j + 1]
      end
    end
    if #fields == 0 then fields = { 'body', '' } end
    redis.call('XADD', KEYS[2], '*', unpack(fields))
    redis.call('XDEL', KEYS[1], ARGV[i])
    sent = sent + 1
  end
end
return sent
