-- Returns the jobs of the owner ARGV[1].
return jobs(redis.call('SMEMBERS', key('owner', ARGV[1])))
