-- Move a vault's held entries back to the streams of their shards, the oldest first, and queue the drains
-- of these shards. The entries keep their times of receipt.
-- KEYS: counters, list of queued jobs, hash of the vaults with held entries, stream of the vault's held
-- entries. ARGV: vault, maximum number of entries to move, prefix of the names of the shards' streams,
-- prefix of the ids of drains.
-- Returns the number of entries that are still held.
local counters, jobs, vaults, held = unpack(KEYS)
local vault, max_entries, streams, drains = unpack(ARGV)
-- With maxmemory reached, Redis refuses commands that need memory unless the script has written already. XDEL
-- needs no memory, and no entry has this id.
local written = redis.pcall('XDEL', held, '0-0')
if type(written) == 'table' and string.find(written.err, 'WRONGTYPE', 1, true) then
  -- Another program has overwritten the entries. Without `bytes`, backlog_recount.lua recounts all counters.
  redis.call('DEL', held)
  redis.call('HDEL', counters, 'bytes')
end
for _, held_entry in ipairs(redis.call('XRANGE', held, '-', '+', 'COUNT', max_entries)) do
  local id, fields = unpack(held_entry)
  local entry = {}
  for i = 1, #fields, 2 do
    entry[fields[i]] = fields[i + 1]
  end
  -- The counter `bytes` includes held entries, so it does not change.
  -- An entry that another program wrote may lack fields. Its drain makes a dead letter of it.
  local shard, sealed, received = tonumber(entry.shard), entry.e or '', entry.r or ''
  shard = shard and shard >= 0 and shard <= 255 and string.format('%.0f', shard) or '0'
  local total = string.format('%.0f', redis.call('HINCRBY', counters, 'in:' .. shard, #sealed))
  redis.call('XADD', streams .. shard, '*', 'e', sealed, 't', total, 'r', received)
  redis.call('XDEL', held, id)
  redis.call('HINCRBY', counters, 'held', -1)
  if not redis.call('LPOS', jobs, drains .. shard) then
    redis.call('RPUSH', jobs, drains .. shard)
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
