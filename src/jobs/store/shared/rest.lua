-- Lets the job ARGV[2], which the consumer ARGV[1] has, rest for ARGV[3] seconds: no node takes it.
if has(ARGV[1], ARGV[2]) then
  redis.call('ZADD', P .. 'resting', time() + tonumber(ARGV[3]), ARGV[2])
end
