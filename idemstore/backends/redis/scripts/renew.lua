-- renew: count the lease from now; the end of retention moves with it. machine.RENEW.
--
-- ARGV: token, lease, checkpoint (not given: keep the one that is stored).
-- Answers: done (written) | lost.

if not live or token ~= ARGV[1] or state ~= 'in-flight' then
  return redis.status_reply('lost')
end

local before, renewed = expires_at, now + tonumber(ARGV[2])
local written = {'lease_until', digits(renewed)}
if expires_at then
  expires_at = renewed + expires_at - lease_until
  written[3], written[4] = 'expires_at', digits(expires_at)
end
if ARGV[3] then
  written[#written + 1] = 'checkpoint'
  written[#written + 1] = ARGV[3]
end
redis.call('HSET', key, unpack(written))
if expires_at then
  reclaim(expires_at, before)
end
return redis.status_reply('done')
