-- Give deliveries back where no copy can be written: each stays where it is, in the name of nobody, until it is taken over.
-- What was counted stays as it is.
-- KEYS stream | ARGV group consumer nobody idle_ms id...   -> how many
local released = 0
for i = 5, #ARGV do
  local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])[1]
  if row then
    local count = math.max(0, row[4] - 1) -- taking it over adds one
    local done = redis.call(
      'XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[i], 'IDLE', ARGV[4], 'RETRYCOUNT', count, 'JUSTID'
    )
    released = released + #done
  end
end
return released
