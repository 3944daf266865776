-- Delete all held entries of a vault.
-- KEYS: counters, hash of the vaults with held entries, stream of the vault's held entries. ARGV: vault.
-- Returns the number of deleted entries.
local counters, vaults, held = unpack(KEYS)
local entries, bytes = redis.pcall('XRANGE', held, '-', '+'), 0
local overwritten = entries.err and string.find(entries.err, 'WRONGTYPE', 1, true) -- by another program
if entries.err then
  entries = overwritten and {} or redis.call('XRANGE', held, '-', '+') -- raises any other error
end
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
redis.call('HINCRBY', counters, 'held', 0 - #entries) -- Lua would write -0, which Redis refuses
redis.call('HINCRBY', counters, 'bytes', 0 - bytes)
if overwritten then
  redis.call('HDEL', counters, 'bytes') -- makes backlog_recount.lua recount all counters
end
return #entries
