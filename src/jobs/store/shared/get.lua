-- Returns the value of kind ARGV[1] of the job ARGV[2].
return redis.call('GET', key(ARGV[1], ARGV[2]))
