-- Drop the entries of a shard that are stored. Counting stands on totals, not on differences, so
-- that doing it twice changes nothing.
-- KEYS: stream, counters, hash of the vaults whose entries are held. ARGV: first id to keep ('' for
-- none), shard, the shard's bytes up to the last dropped, the position at which the history stands, 1 to
-- let the stream's ids begin anew if no entry is left, the shard's next id; then, of each entry to hold:
-- its id, its vault, the stream of the vault's entries that are held, when it was received.
-- Returns the number of entries left.

-- A counter that is no number must not stop this script halfway: entries that are trimmed and not yet held
-- would be lost. backlog_recount.lua counts it anew.
local function increment(key, field, by)
  local answer = redis.pcall('HINCRBY', key, field, by)
  if type(answer) == 'table'
    and not string.find(answer.err, 'not an integer', 1, true)
    and not string.find(answer.err, 'overflow', 1, true) then
    redis.call('HINCRBY', key, field, by) -- raises the error
  end
end

-- An entry that is gone from the stream was held before, or stored: another writer was here.
local held = {}
for i = 7, #ARGV, 4 do
  local found = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])
  if found[1] then
    held[#held + 1] = {found[1][2], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]}
  end
end

-- The first write: a Redis that is full lets a script that has written go on to its end.
if ARGV[1] == '' then
  redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
else
  redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])
end

for _, each in ipairs(held) do
  local fields, vault, stream, received = unpack(each)
  local sealed = ''
  for i = 1, #fields, 2 do
    if fields[i] == 'e' then
      sealed = fields[i + 1]
    end
  end
  redis.call('XADD', stream, '*', 'shard', ARGV[2], 'e', sealed, 'r', received)
  increment(KEYS[3], vault, 1)
  increment(KEYS[2], 'held', 1)
  increment(KEYS[2], 'bytes', #sealed)
end

local function number(field)
  return tonumber(redis.call('HGET', KEYS[2], field) or '0') or 0
end

-- Bytes drained a second, of all shards: measured over a second at least.
local function measure(bytes)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local since, sum = number('measured_at'), number('measured') + bytes
  if now - since >= 1000 or now < since then -- Redis's clock may have stepped back
    if now - since >= 1000 and now - since < 60000 then
      redis.call('HSET', KEYS[2], 'rate', string.format('%.0f', sum * 1000 / (now - since)))
    end
    redis.call('HSET', KEYS[2], 'measured_at', string.format('%.0f', now))
    sum = 0
  end
  redis.call('HSET', KEYS[2], 'measured', string.format('%.0f', sum))
end

local field = 'out:' .. ARGV[2]
local out, total = redis.call('HGET', KEYS[2], field) or '0', tonumber(ARGV[3])
out = string.match(out, '^%d+$') and tonumber(out)
if out and total > out then
  redis.call('HSET', KEYS[2], field, ARGV[3])
  increment(KEYS[2], 'bytes', string.format('%.0f', out - total))
  measure(total - out)
end

local function later(one, other)
  local ms, sequence = string.match(one, '(%d+)-(%d+)')
  local other_ms, other_sequence = string.match(other, '(%d+)-(%d+)')
  if ms ~= other_ms then
    return tonumber(ms) > tonumber(other_ms)
  end
  return tonumber(sequence) > tonumber(other_sequence)
end

-- It never falls: a writer may come late, after others.
local at = 'at:' .. ARGV[2]
local known = redis.call('HGET', KEYS[2], at)
if not known or not string.match(known, '^%d+%-%d+$') or later(ARGV[4], known) then
  redis.call('HSET', KEYS[2], at, ARGV[4])
end
-- As text: a Lua number is exact up to 2^53 only.
local given, next_id = redis.call('HGET', KEYS[2], 'next:' .. ARGV[2]) or '0', ARGV[6]
if #next_id > #given or (#next_id == #given and next_id > given) then
  redis.call('HSET', KEYS[2], 'next:' .. ARGV[2], next_id)
end
local left = redis.call('XLEN', KEYS[1])
if left == 0 and ARGV[5] == '1' then
  redis.call('DEL', KEYS[1])
end
return left
