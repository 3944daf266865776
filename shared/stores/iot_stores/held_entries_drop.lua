-- Delete all held entries of a vault.
-- KEYS: counters, hash of the vaults with held entries, stream of the vault's held entries. ARGV: vault.
-- Returns the number of deleted entries.
local counters, vaults, held = unpack(KEYS)
local entries = redis.call('XRANGE', held, '-', '+')
local bytes = 0
for _, entry in ipairs(entries) do
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == 'e' then
      bytes = bytes + #fields[i + 1]
    end
  end
end
redis.call('DEL', held)
redis.call('HDEL', vaults, ARGV[1])
redis.call('HINCRBY', counters, 'held', -#entries)
redis.call('HINCRBY', counters, 'bytes', -bytes)
return #entries
