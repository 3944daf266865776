-- Replace the record of a vault if it is still the known one. Its expiry stays.
-- KEYS[1]: the record. ARGV[1]: the known record. ARGV[2]: the new record; empty: the record expires.
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then -- also not equal: a value of another type
    return 0
end
if ARGV[2] == '' then
    -- The API's own user of Redis may not use DEL.
    redis.call('SET', KEYS[1], '', 'PX', 1)
else
    redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
end
return 1
