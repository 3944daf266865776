-- Add the segments of a drain to the hot window, and update the covers of its shards (see hot_window.py).
-- KEYS: the cover of each shard. ARGV: seconds to keep segments, the time in milliseconds ('': the time of this
-- Redis); then for each shard: position and next id before the drain, position and next id after it, begin of the
-- cover if there is a gap, number of segments; for each segment: index, key, score, bounds, payload ('': already
-- set, or too large to keep). Times are by the clock of the backlog's Redis, which may be another server.
-- Returns 1, or the first error. An error of one shard does not stop the others.
local keep, now = tonumber(ARGV[1]), tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local horizon = now - keep * 1000
local expired = string.format('(%.0f', horizon)
-- Redis takes another id when it starts, and at a failover: its data may be older than before.
local info = redis.pcall('INFO', 'replication')
local id = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or '' -- '': INFO is not allowed

local function parts(position)
  local milliseconds, sequence = string.match(position, '(%d+)-(%d+)')
  return tonumber(milliseconds), tonumber(sequence)
end

local function later(one, other)
  local ms, sequence = parts(one)
  local other_ms, other_sequence = parts(other)
  return ms > other_ms or (ms == other_ms and sequence > other_sequence)
end

-- Return whether an answer is the error for a key that holds a value of another type. Another program wrote it.
local function is_wrong_type(answer)
  return type(answer) == 'table' and answer.err and string.find(answer.err, 'WRONGTYPE', 1, true)
end

local function is_number(text)
  return text and #text < 20 and string.match(text, '^%d+$')
end

-- Return whether another program has overwritten fields of a cover. The API decides the same in `_is_overwritten`.
local function is_overwritten(position, since, seconds)
  local ms, sequence = string.match(position or '', '^(%d+)%-(%d+)$')
  local is_position = ms and #ms <= 20 and #sequence <= 20
  return (position or since or seconds) and not (is_position and is_number(since) and is_number(seconds))
end

-- Add the segments whose values are at the positions `first` to `last` of ARGV. Return whether the window has lost
-- other segments.
local function add_segments(first, last)
  local lost = false
  for i = first, last, 5 do
    local index, score, bounds = ARGV[i], ARGV[i + 2], ARGV[i + 3]
    if tonumber(score) >= horizon then -- else it was imported, and is too old for the window
      if ARGV[i + 4] ~= '' then -- else it was set before, or is too large: reads take it as evicted
        redis.call('SET', ARGV[i + 1], ARGV[i + 4], 'EX', keep)
      end
      local added = redis.pcall('ZADD', index, score, bounds)
      if type(added) == 'table' then
        if is_wrong_type(added) then
          redis.call('DEL', index)
          lost = true
        end
        redis.call('ZADD', index, score, bounds) -- raises any other error again
      end
      redis.call('ZREMRANGEBYSCORE', index, '-inf', expired)
      redis.call('EXPIRE', index, keep)
    end
  end
  return lost
end

-- Add the segments of the shard whose values begin at `at`. The cover comes last: it must not claim segments that
-- Redis refused.
local function add(cover, at)
  local before, before_id, after, after_id = unpack(ARGV, at, at + 3)
  if parts(after) > now + keep * 1000 then
    -- The clock of the backlog's Redis was set back. Until it has caught up, no segment would leave the index. Without
    -- a cover, reads use Postgres, and writers do not try to replace the cover.
    redis.call('DEL', cover)
    return
  end
  local since = ARGV[at + 4]
  local lost = add_segments(at + 6, at + 1 + 5 * ARGV[at + 5])
  local known = redis.pcall('HMGET', cover, 'position', 'since', 'seconds', 'next_id', 'replication_id')
  if is_wrong_type(known) or is_overwritten(unpack(known, 1, 3)) then
    redis.call('DEL', cover)
    known = {}
  elseif known.err then
    return redis.call('HMGET', cover, 'position') -- raises the error
  end
  -- Writers of earlier versions note no ids.
  local follows = known[1] == before and (not known[4] or known[4] == before_id)
  local older = lost or id ~= '' and known[5] and known[5] ~= '' and known[5] ~= id
  local late = false
  if follows and known[3] == ARGV[1] and not older then
    since = nil -- it stays
  elseif older or not known[2] and since ~= '1' then
    -- The window may lack segments and erasures, or is empty, and other drains may have committed before this
    -- write. Cover only readings received from now on, and later than all readings stored before this drain.
    since = string.format('%.0f', math.max(now + 1, tonumber(since), tonumber(known[2] or '0')))
  elseif known[2] and tonumber(since) < tonumber(known[2]) then
    late = true -- the cover is that of a later drain
  elseif known[2] and known[1] and later(known[1], before) then
    -- Postgres was restored: it lacks drains whose segments are in the window, and may store their entries
    -- again, in other segments. Cover only readings received after all of these drains.
    since = string.format('%.0f', math.max(now, (parts(known[1]))) + 1)
  end
  if not late then
    redis.call('HSET', cover, 'position', after, 'next_id', after_id, 'replication_id', id)
    if since then
      redis.call('HSET', cover, 'since', since, 'seconds', ARGV[1])
    end
  end
end

local at, failed = 3, nil
for _, cover in ipairs(KEYS) do
  local done, message = pcall(add, cover, at)
  failed = failed or not done and message
  at = at + 6 + 5 * ARGV[at + 5]
end
if failed then
  return type(failed) == 'table' and {err = failed.err} or redis.error_reply(failed)
end
return 1
