-- Add segments to the hot window and say what it covers.
-- KEYS: the shard's cover. ARGV: position before, position after, begin of the cover if there is
-- a gap, seconds to keep; then per segment: index, key, score, bounds, payload.
-- Returns 1 when the begin of the cover stands, else 0: hot_window_begin.lua is to be called.
-- The time is not asked for: this may be another Redis than the one whose clock stamps readings.
local cover = KEYS[1]
local keep = tonumber(ARGV[4])
local known = redis.call('HMGET', cover, 'position', 'since', 'seconds')
if known[1] == ARGV[1] and known[3] == ARGV[4] then
  redis.call('HSET', cover, 'position', ARGV[2])
elseif not known[2] and ARGV[3] ~= '1' then
  -- Nothing tells whether this drain is the last one that committed.
  redis.call('HSET', cover, 'position', ARGV[2], 'seconds', ARGV[4])
elseif not known[2] or tonumber(ARGV[3]) >= tonumber(known[2]) then
  redis.call('HSET', cover, 'position', ARGV[2], 'since', ARGV[3], 'seconds', ARGV[4])
end -- else a writer that comes late: the cover already stands on a later drain than its
for i = 5, #ARGV, 5 do
  local index = ARGV[i]
  local horizon = tonumber(ARGV[i + 2]) - keep * 1000
  redis.call('SET', ARGV[i + 1], ARGV[i + 4], 'EX', keep)
  redis.call('ZADD', index, ARGV[i + 2], ARGV[i + 3])
  redis.call('ZREMRANGEBYSCORE', index, '-inf', string.format('(%.0f', horizon))
  redis.call('EXPIRE', index, keep)
end
return redis.call('HEXISTS', cover, 'since')
