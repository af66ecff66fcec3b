-- Returns the salt of the store: ARGV[1], if there is none yet.
ensure_group()
redis.call('SETNX', P .. 'salt', ARGV[1])
return redis.call('GET', P .. 'salt')
