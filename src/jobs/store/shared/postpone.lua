-- Makes the callback of the job ARGV[1] due at the time ARGV[2].
redis.call('ZADD', P .. 'callbacks', 'XX', ARGV[2], ARGV[1])
