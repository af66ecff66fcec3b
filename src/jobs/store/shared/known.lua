-- Returns the jobs of the idempotency key ARGV[1].
return jobs(redis.call('LRANGE', key('known', ARGV[1]), 0, -1))
