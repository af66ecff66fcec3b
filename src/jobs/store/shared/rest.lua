-- Lets the job ARGV[1] rest for ARGV[2] seconds: no node takes it.
if meta(ARGV[1], 'state') then
  redis.call('ZADD', P .. 'resting', time() + tonumber(ARGV[2]), ARGV[1])
end
