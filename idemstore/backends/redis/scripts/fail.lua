-- fail: store the failure, for good or with the time from which it may be tried again. machine.FAIL.
--
-- ARGV: token, result, retention ('': for ever), retry_after ('': never), touch (1, or not given).
-- Answers: done (written) | same (an earlier delivery wrote it) | lost. The checkpoint stays for the next attempt.

local retention, retry_after = tonumber(ARGV[3]), tonumber(ARGV[4])

if not live or token ~= ARGV[1] or state == 'completed' then
  return redis.status_reply('lost')
end
if state == 'failed' then
  if result ~= ARGV[2] or (retry_at == nil) ~= (retry_after == nil) then
    return redis.status_reply('lost')
  end
  if ARGV[5] then
    redis.call('HSET', key, 'token', token)
    return redis.status_reply('done')
  end
  return redis.status_reply('same')
end

local written, obsolete = {'state', 'failed', 'result', ARGV[2]}, {'lease_until'}
if retry_after then
  written[5], written[6] = 'retry_at', digits(now + retry_after)
end
if retention then
  written[#written + 1] = 'expires_at'
  written[#written + 1] = digits(now + retention)
else
  obsolete[2] = 'expires_at'
end
redis.call('HSET', key, unpack(written))
redis.call('HDEL', key, unpack(obsolete))
reclaim(retention and now + retention, expires_at)
tell()
return redis.status_reply('done')
