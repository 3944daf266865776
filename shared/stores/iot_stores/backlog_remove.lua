-- Remove the stored entries of a shard from its stream, and move other entries to the held entries.
-- Idempotent: counters are compared with totals, so a repeated call subtracts nothing.
--
-- KEYS: stream, counters, hash of the vaults with held entries.
-- ARGV: first id to keep ('': keep none), shard, the shard's bytes up to the last removed entry, the
--   shard's position in the ledger, 1 to restart the stream's ids if no entry is left, the shard's next id.
--   For each entry to hold: id, vault, stream of the vault's held entries, time of receipt.
-- Returns the number of entries left in the stream.

-- A damaged counter must not stop this script halfway: Redis does not undo a script that fails, and entries
-- that are trimmed but not held yet would be lost. backlog_recount.lua repairs the counter.
local function increment(key, field, by)
  local answer = redis.pcall('HINCRBY', key, field, by)
  if type(answer) == 'table'
    and not string.find(answer.err, 'not an integer', 1, true)
    and not string.find(answer.err, 'overflow', 1, true) then
    redis.call('HINCRBY', key, field, by) -- raises the error
  end
end

-- Read the entries before trimming. An entry that is missing was held or stored by another writer.
local held = {}
for i = 7, #ARGV, 4 do
  local found = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])
  if found[1] then
    held[#held + 1] = {found[1][2], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]}
  end
end

-- Trim first, and add held entries afterwards: with maxmemory reached, Redis refuses commands that need
-- memory unless the script has written already. XTRIM needs no memory.
if ARGV[1] == '' then
  redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
else
  redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])
end

for _, entry in ipairs(held) do
  local fields, vault, stream, received = unpack(entry)
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

-- Measure the bytes drained per second, of all shards together, over at least one second.
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

-- The position never falls: a slow writer may call this after later drains did.
local at = 'at:' .. ARGV[2]
local known = redis.call('HGET', KEYS[2], at)
if not known or not string.match(known, '^%d+%-%d+$') or later(ARGV[4], known) then
  redis.call('HSET', KEYS[2], at, ARGV[4])
end
-- Compare ids as text: Lua numbers are exact up to 2^53 only.
local known_id, next_id = redis.call('HGET', KEYS[2], 'next:' .. ARGV[2]) or '0', ARGV[6]
if #next_id > #known_id or (#next_id == #known_id and next_id > known_id) then
  redis.call('HSET', KEYS[2], 'next:' .. ARGV[2], next_id)
end
local left = redis.call('XLEN', KEYS[1])
if left == 0 and ARGV[5] == '1' then
  -- A deleted stream starts again with ids of the current time.
  redis.call('DEL', KEYS[1])
end
return left
