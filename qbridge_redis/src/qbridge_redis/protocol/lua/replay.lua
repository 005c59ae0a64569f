#!lua flags=allow-oom
-- Send dead letters back as their producer wrote them: copy first, then delete. Those that a consumer holds stay.
-- KEYS dead target | ARGV group id...   -> {ids that went, ids with too many fields for a script}, nil without a target
if redis.call('EXISTS', KEYS[2]) == 0 then return nil end
redis.call('XDEL', KEYS[1], '0-0') -- without the right to delete, each call would make another copy: find out before
local sent, large = {}, {}
for i = 2, #ARGV do
  local row = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if entry and #entry[2] > MOST then
    large[#large + 1] = ARGV[i]
  elseif entry and (row.err or #row == 0) then
    local fields, replays = {}, 0
    for j = 1, #entry[2], 2 do
      local name = entry[2][j]
      if string.sub(name, 1, 10) ~= 'x-qbridge-' or string.sub(name, 1, 17) == 'x-qbridge-header-' then
        fields[#fields + 1] = name
        fields[#fields + 1] = entry[2][j + 1]
      elseif name == 'x-qbridge-replays' and string.find(entry[2][j + 1], '^%d%d?%d?%d?%d?%d?%d?%d?%d?$') then
        replays = tonumber(entry[2][j + 1])
      end
    end
    if #fields == 0 then fields = { 'body', '' } end
    fields[#fields + 1] = 'x-qbridge-replays'
    fields[#fields + 1] = string.format('%.0f', replays + 1)
    redis.call('XADD', KEYS[2], '*', spread(fields, 1, #fields))
    redis.call('XDEL', KEYS[1], ARGV[i])
    sent[#sent + 1] = ARGV[i]
  end
end
return { sent, large }
