-- Store the record of a vault. If Redis has the record of another vault under the same lookup, store nothing
-- and return the id of the other vault.
-- KEYS[1]: the record. KEYS[2]: the vault that no longer has the lookup, because its password was changed.
-- ARGV[1]: the new record: the vault's id in 16 bytes, its lookup in 32 bytes, and more.
-- ARGV[2]: seconds until the record expires.
local found = redis.pcall('GET', KEYS[1])
if type(found) == 'string' then -- another program may have written a value of another type
    local vault = string.sub(found, 1, 16)
    local is_record = string.sub(found, 17, 48) == string.sub(ARGV[1], 17, 48)
    if is_record and vault ~= string.sub(ARGV[1], 1, 16) and vault ~= redis.pcall('GET', KEYS[2]) then
        return vault
    end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return false
