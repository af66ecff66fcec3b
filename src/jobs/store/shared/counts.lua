-- Returns the numbers of jobs by state, those of the client ARGV[1], the bytes of audio, and those of the client.
return counts(ARGV[1])
