-- Delete all held entries of a vault.
-- KEYS: counters, hash of the vaults whose entries are held, stream of the vault's entries that are held.
-- ARGV: vault.
-- Returns the number of entries that were deleted.
local counters, vaults, held = unpack(KEYS)
local entries = redis.call('XRANGE', held, '-', '+')
local bytes = 0
for _, each in ipairs(entries) do
  for i = 1, #each[2], 2 do
    if each[2][i] == 'e' then
      bytes = bytes + #each[2][i + 1]
    end
  end
end
redis.call('DEL', held)
redis.call('HDEL', vaults, ARGV[1])
redis.call('HINCRBY', counters, 'held', -#entries)
redis.call('HINCRBY', counters, 'bytes', -bytes)
return #entries
