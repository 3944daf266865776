-- Add segments to the hot window and say what it covers.
-- KEYS: the shard's cover. ARGV: position before, position after, begin of the cover if there is
-- a gap, seconds to keep; then per segment: index, key, score, bounds, payload.
local cover = KEYS[1]
local keep = tonumber(ARGV[4])
local now = redis.call('TIME')
local horizon = now[1] * 1000 - keep * 1000
if redis.call('HGET', cover, 'position') ~= ARGV[1] then
  redis.call('HSET', cover, 'since', ARGV[3])
end
for i = 5, #ARGV, 5 do
  local index = ARGV[i]
  redis.call('SET', ARGV[i + 1], ARGV[i + 4], 'EX', keep)
  redis.call('ZADD', index, ARGV[i + 2], ARGV[i + 3])
  redis.call('ZREMRANGEBYSCORE', index, '-inf', string.format('(%.0f', horizon))
  redis.call('EXPIRE', index, keep)
end
redis.call('HSET', cover, 'position', ARGV[2])
return 1
