-- Returns how many queued jobs come before the job ARGV[1].
return redis.call('ZRANK', key('state', 'queued'), ARGV[1])
