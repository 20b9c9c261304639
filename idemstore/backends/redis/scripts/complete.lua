-- complete: store the result. machine.COMPLETE.
--
-- ARGV: token, result, retention ('': for ever), touch (1, or not given).
-- Answers: done (written) | same (an earlier delivery wrote it) | lost.

local retention = tonumber(ARGV[3])

if not live or token ~= ARGV[1] or state == 'failed' then
  return redis.status_reply('lost')
end
if state == 'completed' then
  if result ~= ARGV[2] then
    return redis.status_reply('lost')
  end
  if ARGV[4] then
    redis.call('HSET', key, 'token', token)
    return redis.status_reply('done')
  end
  return redis.status_reply('same')
end

if retention then
  redis.call('HSET', key, 'state', 'completed', 'result', ARGV[2], 'expires_at', digits(now + retention))
  redis.call('HDEL', key, 'lease_until', 'checkpoint')
  reclaim(now + retention, expires_at)
else
  redis.call('HSET', key, 'state', 'completed', 'result', ARGV[2])
  redis.call('HDEL', key, 'lease_until', 'checkpoint', 'expires_at')
  reclaim()
end
tell()
return redis.status_reply('done')
