-- Write something, so that the next WAIT or WAITAOF over the same connection covers all earlier writes, of any
-- connection: Redis makes it wait only until the last write of its own connection is confirmed.
-- KEYS: counters.
-- HDEL comes first, because it needs no memory: a full Redis refuses HSET unless the script has written already.
redis.call('HDEL', KEYS[1], 'confirmed')
return redis.call('HSET', KEYS[1], 'confirmed', 1)
