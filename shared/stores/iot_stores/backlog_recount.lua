-- Recount all counters of the backlog if one of them is damaged, or if their key is missing or holds a value of another
-- type. A counter is damaged if it is not a number (another program wrote it), if `bytes` or `held` is missing,
-- if more bytes were removed from a shard than were added, or if fewer were removed and no entry waits. Only this script
-- sets the field `whole`. Without this field, the counters may have been deleted, and appends may have added some of
-- them again.
-- KEYS: counters, hash of the vaults with held entries. ARGV: prefix of the names of the shards' streams, prefix of the
-- names of the streams of held entries.
-- Returns the names of the damaged counters; empty if all were right. If the key was missing: the counters that
-- are not 0 now. If the key had another type: these counters and the key.
local counters, vaults, streams, holds = KEYS[1], KEYS[2], ARGV[1], ARGV[2]

-- Lua numbers are doubles: they are exact up to 2^53, which has 16 digits.
local function amount(text)
  return text and #text <= 15 and string.match(text, '^%d+$') and tonumber(text)
end

local function field(entry, name)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == name then
      return entry[2][i + 1]
    end
  end
end

local function is_sound(name, text)
  if string.match(name, '^at:%d+$') then
    local milliseconds, sequence = string.match(text, '^(%d+)%-(%d+)$')
    return sequence and #milliseconds <= 20 and #sequence <= 20
  elseif string.match(name, '^next:%d+$') then
    -- All ids are below 2^53. No shard has used half of them.
    return #text <= 16 and string.match(text, '^%d+$') and tonumber(text) < 2 ^ 52
  elseif name == 'moved_at' then
    return amount(text) and amount(text) < (redis.call('TIME')[1] + 3600) * 1000
  end
  return amount(text)
end

-- Return the items that a command reads; none if the key holds a value of another type.
local function items(...)
  local found = redis.pcall(...)
  if not found.err then
    return found
  end
  return string.find(found.err, 'WRONGTYPE', 1, true) and {} or redis.call(...) -- raises the error
end

-- Return the bytes ever added to a shard whose counter was lost. Appends since the loss counted from 0 again, up to
-- `added`, which is below the positions of all earlier entries. Reads the later entries only, the newest first.
local function added_with_loss(stream, added)
  local before, begin = '+', added
  while true do
    for _, entry in ipairs(redis.call('XREVRANGE', stream, before, '-', 'COUNT', 16)) do
      local total = amount(field(entry, 't'))
      if total and total > added then
        return total + added - begin
      end
      begin = total and math.max(0, total - #(field(entry, 'e') or '')) or begin
      before = '(' .. entry[1]
    end
  end
end

-- Return the number of entries of a stream; 0 if the key holds a value of another type.
local function length(stream)
  local found = redis.pcall('XLEN', stream)
  return type(found) == 'number' and found or 0
end

local known, damaged, listed, shards = {}, {}, {}, {}
local function list(name)
  damaged[#damaged + 1] = not listed[name] and name or nil
  listed[name] = true
end

local found = items('HGETALL', counters)
local missing = #found == 0
if missing and redis.call('EXISTS', counters) == 1 then -- it holds a value of another type
  list(counters)
end
for i = 1, #found, 2 do
  local name, text = found[i], found[i + 1]
  known[name] = text
  local shard = string.match(name, '^in:(%d+)$') or string.match(name, '^out:(%d+)$')
  if shard then
    shards[shard] = true
  end
  local ours = shard or string.match(name, '^at:%d+$') or string.match(name, '^next:%d+$')
    or name == 'bytes' or name == 'held' or name == 'session_renewals'
    or name == 'rate' or name == 'measured' or name == 'measured_at' or name == 'moved_at'
  if ours and not is_sound(name, text) then
    list(name)
  end
end
if not known.bytes and not missing and next(shards) then
  list('bytes') -- a script has deleted it, because held entries were overwritten
end
if not known.held and not missing and #items('HKEYS', vaults) > 0 then
  list('held')
end
for shard in pairs(shards) do
  local name = 'out:' .. shard
  local added, removed = amount(known['in:' .. shard] or '0'), amount(known[name] or '0')
  if added and removed and (removed > added or removed < added and length(streams .. shard) == 0) then
    known[name] = nil
    list(name)
  end
end
if #damaged == 0 and known.whole then
  return damaged
end
for shard = 0, not known.whole and 255 or -1 do
  shards[tostring(shard)] = true
end

local bytes, sums = 0, {}
for shard in pairs(shards) do
  local added, removed = amount(known['in:' .. shard]), amount(known['out:' .. shard])
  local stream = streams .. shard
  local first = items('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local last = items('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  added = math.max(added or removed or 0, last and amount(field(last, 't')) or 0)
  local first_end = first and amount(field(first, 't')) or 0
  if first_end > added then -- the counter was deleted, and an append has added it again
    added, removed = added_with_loss(stream, added), nil
  end
  if not removed then
    removed = first and math.max(0, first_end - #(field(first, 'e') or '')) or added
  end
  sums['in:' .. shard], sums['out:' .. shard] = added, removed
  bytes = bytes + added - removed
end
local held = 0
for _, vault in ipairs(items('HKEYS', vaults)) do
  local from = '-'
  repeat
    local page = items('XRANGE', holds .. vault, from, '+', 'COUNT', 500)
    for _, entry in ipairs(page) do
      held, bytes = held + 1, bytes + #(field(entry, 'e') or '')
      from = '(' .. entry[1]
    end
  until #page < 500
end
sums.bytes, sums.held = math.max(0, bytes), held
-- Delete damaged counters that are not recounted. The ledger in Postgres has ids and positions too.
if missing then
  redis.call('DEL', counters)
end
redis.call('HDEL', counters, 'whole') -- a full Redis refuses writes, but not those after a deletion
for _, name in ipairs(damaged) do
  redis.call('HDEL', counters, name)
end
for name, sum in pairs(sums) do
  local text = string.format('%.0f', sum)
  if not known.whole and text ~= (known[name] or '0') then
    list(name)
  end
  if sum > 0 or known[name] or name == 'bytes' then
    redis.call('HSET', counters, name, text)
  end
end
redis.call('HSET', counters, 'whole', 1)
return damaged
