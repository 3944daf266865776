-- Remove the cached records of a vault under some lookups, and hide records that are cached later. Records of other
-- vaults under these lookups stay: a password may have a new vault.
-- KEYS: for each lookup: the record, and the vault that no longer has the lookup. ARGV[1]: the vault's id in 16 bytes.
-- ARGV[2]: seconds for which records are hidden; 0: none are.
for i = 1, #KEYS, 2 do
    if tonumber(ARGV[2]) > 0 then
        redis.call('SET', KEYS[i + 1], ARGV[1], 'EX', ARGV[2])
    end
    local found = redis.pcall('GET', KEYS[i])
    -- Another program may have written a value of another type.
    if type(found) == 'string' and string.sub(found, 1, 16) == ARGV[1] then
        redis.call('SET', KEYS[i], '', 'PX', 1) -- the API's own user of Redis may not use DEL
    end
end
