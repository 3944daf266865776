-- Remove the entries of drains from the streams of their shards, and move some of them to the held entries. Skips a
-- shard whose stream lacks the last entry to remove. So a repeated call is harmless. After a failover, a new master may
-- lack this entry. If its clock is behind, its stream then has new entries with lower ids, which no drain has read.
--
-- KEYS: counters, hash of the vaults with held entries, then the stream of each shard.
-- ARGV, for each shard: id of the last entry to remove, beginning of its sealed bytes, shard, the shard's bytes up to
--   this entry, the shard's position in the ledger, 1 to restart the stream's ids if no entry is left, the shard's
--   next id, 1 if covers of other shards may claim its readings, number of entries to hold. For each entry to hold: id,
--   vault, stream of the vault's held entries, time of receipt.
-- Returns 1 for each stream in which entries are left, 0 for the others; or the first error. An error of one shard
-- does not stop the others.

local counters, vaults = KEYS[1], KEYS[2]

-- A damaged counter must not stop this script halfway. Redis does not undo a script that fails: entries that are
-- trimmed but not held yet would be lost. The script backlog_recount.lua repairs the counter.
local function increment(key, field, by)
  local answer = redis.pcall('HINCRBY', key, field, by)
  if type(answer) == 'table'
    and not string.find(answer.err, 'not an integer', 1, true)
    and not string.find(answer.err, 'overflow', 1, true) then
    redis.call('HINCRBY', key, field, by) -- raises the error
  end
end

local fields = {'measured', 'measured_at'}
local shards, at = {}, 1
for k = 3, #KEYS do
  local shard = {stream = KEYS[k], first = at, name = ARGV[at + 2]}
  shards[#shards + 1] = shard
  for _, field in ipairs({'out:', 'next:'}) do
    fields[#fields + 1] = field .. shard.name
  end
  at = at + 9 + 4 * ARGV[at + 8]
end
local known = redis.call('HMGET', counters, unpack(fields))
local changes, bytes = {}, 0

local function change(field, value)
  changes[#changes + 1] = field
  changes[#changes + 1] = value
end

-- Return the time of Redis in Unix milliseconds.
local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Note the changes of a shard's counters. `out` and `known_id` are the values in Redis.
local function progress(shard, out, known_id)
  local total, next_id = ARGV[shard.first + 3], ARGV[shard.first + 6]
  out = string.match(out or '0', '^%d+$') and tonumber(out or '0')
  if out and tonumber(total) > out then
    change('out:' .. shard.name, total)
    bytes = bytes + tonumber(total) - out
  end
  -- The removed entries were still in the stream, so no later drain has set the position. Overwrite a higher
  -- position: another program wrote it.
  change('at:' .. shard.name, ARGV[shard.first + 4])
  -- Compare ids as text: Lua numbers are exact up to 2^53 only.
  known_id = known_id or '0'
  if #next_id > #known_id or (#next_id == #known_id and next_id > known_id) then
    change('next:' .. shard.name, next_id)
  end
end

-- Return the sealed bytes of an entry. If another program added the entry, it may have several fields `e`: take
-- the last one, as the writer does.
local function sealed_of(entry)
  local content, sealed = entry[2], ''
  for i = 1, #content, 2 do
    if content[i] == 'e' then
      sealed = content[i + 1]
    end
  end
  return sealed
end

local overwritten = false -- whether another program has overwritten held entries

-- Delete a key that holds a value of another type, which another program wrote. Return whether it was deleted.
-- Raise any other error, for example because the user of the writer may not use the key.
-- `...`: more arguments of the command that reads the key.
local function delete_if_mistyped(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' then
    return false
  end
  if not string.find(answer.err, 'WRONGTYPE', 1, true) then
    error(answer)
  end
  return redis.call('DEL', key) == 1
end

local function remove(shard, number)
  local first, held = shard.first, {}
  local last, begin = ARGV[first], ARGV[first + 1]
  local found, following = unpack(redis.call('XRANGE', shard.stream, last, '+', 'COUNT', 2))
  -- After a failover, another entry may have the same id.
  if not found or found[1] ~= last or string.sub(sealed_of(found), 1, #begin) ~= begin then
    return math.min(1, redis.call('XLEN', shard.stream))
  end
  -- Read the entries before trimming. An entry that is missing was deleted by another program.
  for i = first + 9, first + 5 + 4 * ARGV[first + 8], 4 do
    local entry = redis.call('XRANGE', shard.stream, ARGV[i], ARGV[i])[1]
    if entry then
      held[#held + 1] = {sealed_of(entry), ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]}
      -- Once the stream is trimmed, no command may fail: the entries would be lost.
      delete_if_mistyped('HEXISTS', vaults, ARGV[i + 1])
      overwritten = delete_if_mistyped('XLEN', ARGV[i + 2]) or overwritten
    end
  end
  -- Trim first, and add held entries afterwards: with maxmemory reached, Redis refuses commands that need
  -- memory unless the script has written already. XTRIM needs no memory.
  if following then
    redis.call('XTRIM', shard.stream, 'MINID', following[1])
  else
    redis.call('XTRIM', shard.stream, 'MAXLEN', 0)
  end
  for _, entry in ipairs(held) do
    local sealed, _, stream, received = unpack(entry)
    redis.call('XADD', stream, '*', 'shard', shard.name, 'e', sealed, 'r', received)
  end
  for _, entry in ipairs(held) do
    local sealed, vault = unpack(entry)
    increment(vaults, vault, 1)
    increment(counters, 'held', 1)
    increment(counters, 'bytes', #sealed)
  end
  progress(shard, unpack(known, 2 * number + 1, 2 * number + 2))
  if ARGV[first + 7] == '1' then
    change('moved_at', string.format('%.0f', milliseconds()))
  end
  if not following and ARGV[first + 5] == '1' then
    -- A deleted stream starts again with ids of the current time.
    redis.call('DEL', shard.stream)
  end
  return following and 1 or 0
end

-- Measure the bytes drained per second, of all shards together, over at least one second.
local function measure()
  local now = milliseconds()
  local since, sum = tonumber(known[2] or '0') or 0, (tonumber(known[1] or '0') or 0) + bytes
  if now - since >= 1000 or now < since then -- Redis's clock may have stepped back
    if now - since >= 1000 and now - since < 60000 then
      change('rate', string.format('%.0f', sum * 1000 / (now - since)))
    end
    change('measured_at', string.format('%.0f', now))
    sum = 0
  end
  change('measured', string.format('%.0f', sum))
end

local lefts, failed = {}, nil
for number, shard in ipairs(shards) do
  local done, left = pcall(remove, shard, number)
  lefts[number] = left
  failed = failed or not done and left
end
if bytes > 0 then
  increment(counters, 'bytes', string.format('%.0f', -bytes))
  measure()
end
if #changes > 0 then
  redis.call('HSET', counters, unpack(changes))
end
if overwritten then
  redis.call('HDEL', counters, 'bytes') -- makes backlog_recount.lua recount all counters
end
if failed then
  return type(failed) == 'table' and {err = failed.err} or redis.error_reply(failed)
end
return lefts
