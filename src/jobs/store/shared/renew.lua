-- Renews the lease of the consumer ARGV[1] on the job ARGV[2]. Returns 1 if it has it.
if not has(ARGV[1], ARGV[2]) then
  return 0
end
redis.call('XCLAIM', STREAM, GROUP, ARGV[1], 0, meta(ARGV[2], 'entry'), 'JUSTID')
return 1
