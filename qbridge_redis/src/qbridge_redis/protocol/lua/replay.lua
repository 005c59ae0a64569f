#!lua flags=allow-oom
-- Send dead letters back as their producer wrote them: copy first, then delete. Those that a consumer holds stay. When they
-- were sent, and what became of them before, goes with them.
-- KEYS dead target | ARGV group now_ms id...   -> {ids that went, ids with too many fields for a script}, nil without a target
if redis.call('EXISTS', KEYS[2]) == 0 then return nil end
redis.call('XDEL', KEYS[1], '0-0') -- without the right to delete, each call would make another copy: find out before
local sent, large = {}, {}
for i = 3, #ARGV do
  local row = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if entry and #entry[2] > MOST then
    large[#large + 1] = ARGV[i]
  elseif entry and (row.err or #row == 0) then
    local fields, kept, replays, first = {}, {}, 0, true
    for j = 1, #entry[2], 2 do
      local name = entry[2][j]
      if string.sub(name, 1, 10) ~= 'x-qbridge-' or string.sub(name, 1, 17) == 'x-qbridge-header-' then
        fields[#fields + 1] = name
        fields[#fields + 1] = entry[2][j + 1]
      else
        first = false
        if name == 'x-qbridge-replays' and string.find(entry[2][j + 1], '^%d%d?%d?%d?%d?%d?%d?%d?%d?$') then
          replays = tonumber(entry[2][j + 1])
        elseif name == 'x-qbridge-sent-at-ms' or (name == 'x-qbridge-history' and #entry[2][j + 1] <= 4096) then
          kept[#kept + 1] = name
          kept[#kept + 1] = entry[2][j + 1]
        end
      end
    end
    if first and string.find(ARGV[i], '^%d%d%d%d%d%d%d%d%d%d%d%d%d') then -- nobody has copied it: its id tells
      kept = { 'x-qbridge-sent-at-ms', string.match(ARGV[i], '^%d+') }
    end
    if #fields == 0 then fields = { 'body', '' } end
    for j = 1, #kept do fields[#fields + 1] = kept[j] end
    fields[#fields + 1] = 'x-qbridge-replays'
    fields[#fields + 1] = string.format('%.0f', replays + 1)
    fields[#fields + 1] = 'x-qbridge-due-at-ms'
    fields[#fields + 1] = ARGV[2]
    redis.call('XADD', KEYS[2], '*', spread(fields, 1, #fields))
    redis.call('XDEL', KEYS[1], ARGV[i])
    sent[#sent + 1] = ARGV[i]
  end
end
return { sent, large }
