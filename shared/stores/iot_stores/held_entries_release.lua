-- Put held entries of a vault back into the streams they came from, the oldest first, and queue their
-- drains. They keep the time of their receipt.
-- KEYS: counters, list of waiting jobs, hash of the vaults whose entries are held, stream of the vault's
-- entries that are held. ARGV: vault, most entries, what the names of the shards' streams and the ids of
-- their drains begin with.
-- Returns the number of entries that are held still.
local counters, jobs, vaults, held = unpack(KEYS)
local vault, most, streams, drains = unpack(ARGV)
for _, each in ipairs(redis.call('XRANGE', held, '-', '+', 'COUNT', most)) do
  local entry = {}
  for i = 1, #each[2], 2 do
    entry[each[2][i]] = each[2][i + 1]
  end
  -- Bytes that wait are the same as before: what is held counts, too.
  local total = string.format('%.0f', redis.call('HINCRBY', counters, 'in:' .. entry.shard, #entry.e))
  redis.call('XADD', streams .. entry.shard, '*', 'e', entry.e, 't', total, 'r', entry.r)
  redis.call('XDEL', held, each[1])
  redis.call('HINCRBY', counters, 'held', -1)
  if not redis.call('LPOS', jobs, drains .. entry.shard) then
    redis.call('RPUSH', jobs, drains .. entry.shard)
  end
end
local left = redis.call('XLEN', held)
if left == 0 then
  redis.call('DEL', held)
  redis.call('HDEL', vaults, vault)
else
  redis.call('HSET', vaults, vault, left)
end
return left
