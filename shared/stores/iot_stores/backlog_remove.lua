-- Drop the entries of a shard that are stored. Counting stands on totals, not on differences, so
-- that doing it twice changes nothing.
-- KEYS: stream, counters. ARGV: first id to keep, shard, the shard's bytes up to the last dropped.
-- Returns the number of entries left.
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])
local field = 'out:' .. ARGV[2]
local out = tonumber(redis.call('HGET', KEYS[2], field) or '0')
local total = tonumber(ARGV[3])
if total > out then
  redis.call('HSET', KEYS[2], field, ARGV[3])
  redis.call('HINCRBY', KEYS[2], 'bytes', string.format('%.0f', out - total))
end
return redis.call('XLEN', KEYS[1])
