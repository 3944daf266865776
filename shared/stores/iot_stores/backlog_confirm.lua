-- Write something. WAIT and WAITAOF wait only for the last write of their own connection: with this write, they cover
-- all earlier writes of any connection.
-- KEYS: counters.
-- HDEL comes first, because it needs no memory: a full Redis refuses HSET unless the script has written already.
redis.call('HDEL', KEYS[1], 'confirmed')
return redis.call('HSET', KEYS[1], 'confirmed', 1)
