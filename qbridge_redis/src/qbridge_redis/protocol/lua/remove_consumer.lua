-- Forget a consumer that holds nothing. A bare DELCONSUMER would drop what it holds from the group without delivering it.
-- KEYS stream | ARGV group consumer   -> 1 forgotten, 0 not
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #row, 2 do consumer[row[i]] = row[i + 1] end
  if consumer.name == ARGV[2] and consumer.pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    return 1
  end
end
return 0
