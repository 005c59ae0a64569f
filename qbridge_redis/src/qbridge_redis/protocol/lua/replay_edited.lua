#!lua flags=allow-oom
-- Send something else in place of a dead letter: add it first, then delete the letter, unless a consumer holds that.
-- KEYS dead target | ARGV group id field value...   -> 1 done, 0 the letter is not there, nil without a target
if redis.call('EXISTS', KEYS[2]) == 0 then return nil end
redis.call('XDEL', KEYS[1], '0-0') -- without the right to delete, each call would make another copy: find out before
local row = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)
if not row.err and #row > 0 or #redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', spread(ARGV, 3, #ARGV))
redis.call('XDEL', KEYS[1], ARGV[2])
return 1
