-- Write something, so that a WAIT or WAITAOF that follows over the same connection covers all earlier writes: Redis
-- lets it wait for the last write of its connection only.
-- KEYS: counters.
-- HDEL comes first, because it needs no memory: a full Redis refuses HSET unless the script has written already.
redis.call('HDEL', KEYS[1], 'confirmed')
return redis.call('HSET', KEYS[1], 'confirmed', 1)
