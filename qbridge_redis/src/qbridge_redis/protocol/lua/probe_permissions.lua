-- Find out which commands the user may not use, with calls that change nothing: there is no such group, id or member.
-- KEYS stream delayed away   -> their names
local none = 'qbridge:probe'
local stream, delayed, away = KEYS[1], KEYS[2], KEYS[3]
local calls = {
  { 'XADD', stream, 'NOMKSTREAM', '0-0', 'body', '' },
  { 'XADD', away, 'NOMKSTREAM', '0-0', 'body', '' },
  { 'XREADGROUP', 'GROUP', none, none, 'COUNT', '1', 'STREAMS', stream, '>' },
  { 'XACK', stream, none, '0-0' },
  { 'XDEL', stream, '0-0' },
  { 'XRANGE', stream, '0-0', '0-0' },
  { 'XPENDING', stream, none, '-', '+', '1' },
  { 'XCLAIM', stream, none, none, '0', '0-0' },
  { 'XINFO', 'CONSUMERS', stream, none },
  { 'XGROUP', 'DELCONSUMER', stream, none, none },
  { 'EXISTS', stream },
  { 'ZADD', delayed, 'XX', '0', none },
  { 'ZRANGE', delayed, '0', '0' },
  { 'ZREM', delayed, none },
  { 'TIME' },
}
local missing = {}
for _, call in ipairs(calls) do
  local reply = redis.pcall(unpack(call))
  local text = type(reply) == 'table' and reply.err or ''
  local key = string.find(text, 'keys', 1, true) and ' on the key ' .. (call[2] or '') or ''
  if string.find(text, "executing the script can't", 1, true) or string.find(text, 'ACL failure', 1, true) then
    missing[#missing + 1] = string.lower(call[1]) .. key
  end
end
return missing
