-- Add the segments of a drain to the hot window, and update the shard's cover (see hot_window.py).
-- KEYS: the shard's cover. ARGV: position before the drain, position after it, begin of the cover if there
-- is a gap, seconds to keep segments, the time in milliseconds; then for each segment: index, key, score,
-- bounds, payload ('': too large to keep). The time is that of the backlog's Redis, which stamps readings
-- and may be another server.
-- Returns 1.
local cover = KEYS[1]
local keep = tonumber(ARGV[4])
local now = tonumber(ARGV[5])
local horizon = string.format('(%.0f', now - keep * 1000)
local known = redis.call('HMGET', cover, 'position', 'since', 'seconds')

local function parts(position)
  local milliseconds, sequence = string.match(position, '(%d+)-(%d+)')
  return tonumber(milliseconds), tonumber(sequence)
end

local function later(one, other)
  local ms, sequence = parts(one)
  local other_ms, other_sequence = parts(other)
  return ms > other_ms or (ms == other_ms and sequence > other_sequence)
end

if known[1] == ARGV[1] and known[3] == ARGV[4] then
  redis.call('HSET', cover, 'position', ARGV[2])
elseif not known[2] and ARGV[3] ~= '1' then
  -- The window is empty, and other drains may have committed before this write. Cover only readings
  -- received from now on.
  local since = string.format('%.0f', now + 1)
  redis.call('HSET', cover, 'position', ARGV[2], 'since', since, 'seconds', ARGV[4])
elseif known[2] and tonumber(ARGV[3]) >= tonumber(known[2]) and known[1] and later(known[1], ARGV[1]) then
  -- Postgres was restored: it lacks drains whose segments are in the window, and may store their entries
  -- again, in other segments. Cover only readings received after all of these drains.
  local since = string.format('%.0f', math.max(now, (parts(known[1]))) + 1)
  redis.call('HSET', cover, 'position', ARGV[2], 'since', since, 'seconds', ARGV[4])
elseif not known[2] or tonumber(ARGV[3]) >= tonumber(known[2]) then
  redis.call('HSET', cover, 'position', ARGV[2], 'since', ARGV[3], 'seconds', ARGV[4])
end -- else: this writer is late, and the cover is that of a later drain
for i = 6, #ARGV, 5 do
  local index = ARGV[i]
  if ARGV[i + 4] ~= '' then -- reads treat a payload that is too large like an evicted one
    redis.call('SET', ARGV[i + 1], ARGV[i + 4], 'EX', keep)
  end
  redis.call('ZADD', index, ARGV[i + 2], ARGV[i + 3])
  redis.call('ZREMRANGEBYSCORE', index, '-inf', horizon)
  redis.call('EXPIRE', index, keep)
end
return 1
