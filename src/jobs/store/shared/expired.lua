-- Returns jobs that expired before the time ARGV[1].
return jobs(redis.call('ZRANGEBYSCORE', P .. 'expiry', '-inf', ARGV[1], 'LIMIT', 0, 100))
