-- Name the queues that have a message which is due, and say when the next one of the others will be.
-- KEYS delayed...   -> {{position in KEYS...}, microseconds until the next one or -1}
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local due, wait = {}, -1
for i = 1, #KEYS do
  local first = redis.pcall('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
  local left = first.err and 0 or first[2] and tonumber(first[2]) - now -- what cannot be read is for promote.lua to report
  if left and left <= 0 then
    due[#due + 1] = i
  elseif left and (wait < 0 or left < wait) then
    wait = left
  end
end
return { due, wait }
