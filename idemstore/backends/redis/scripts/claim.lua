-- claim: run the operation now, or learn what became of it. machine.CLAIM.
--
-- ARGV: token, lease, retention ('': for ever), fingerprint ('': none), takeover (1 or 0), touch (1, or not given).
-- Answers, of which only 'claimed' may have written. Those without bytes of a caller are one line, which costs a client
-- a third of what an array costs it:
--   "claimed <fence> <attempt>" | "in-flight <left>" | "mismatch"
--   {claimed, fence, attempt, checkpoint} | {completed, result} | {failed, result[, left]}
--   {abandoned, token, fence, attempt[, checkpoint]}
-- With touch, a re-sent claim writes its own token once more: the same record, but a write that WAIT can wait for.

local claimer, lease, retention = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function granted(checkpoint)
  if checkpoint then
    return {'claimed', fence, attempt, checkpoint}
  end
  return redis.status_reply('claimed ' .. digits(fence) .. ' ' .. digits(attempt))
end

if live then
  -- Before anything else, and whatever the state: another payload never sees this record.
  if fingerprint and ARGV[4] ~= '' and fingerprint ~= ARGV[4] then
    return redis.status_reply('mismatch')
  end
  if state == 'completed' then
    return {'completed', result}
  end
  if state == 'failed' then
    if not retry_at then
      return {'failed', result}
    end
    if retry_at > now then
      return {'failed', result, retry_at - now}
    end
  elseif token == claimer then
    -- The owner's client re-sent it, since a reply was lost.
    if ARGV[6] then
      redis.call('HSET', key, 'token', token)
    end
    return granted(redis.call('HGET', key, 'checkpoint'))
  elseif lease_until > now then
    return redis.status_reply('in-flight ' .. digits(lease_until - now))
  elseif ARGV[5] == '0' then
    return {'abandoned', token, fence, attempt, redis.call('HGET', key, 'checkpoint')}
  end
end

-- From here on the claim is granted. An expired record lends its fence, nothing else.
local checkpoint = false
fence = math.max((fence or 0) + 1, now)
lease_until = now + lease
local written = {'state', 'in-flight', 'token', claimer, 'fence', digits(fence), 'lease_until', digits(lease_until)}
local ends = retention and lease_until + retention

if live then
  attempt = attempt + 1
  checkpoint = redis.call('HGET', key, 'checkpoint')
else
  if exists then
    redis.call('DEL', key)
  end
  attempt, fingerprint, expires_at = 1, false, nil
end
written[#written + 1] = 'attempt'
written[#written + 1] = digits(attempt)
if not fingerprint and ARGV[4] ~= '' then
  written[#written + 1] = 'fingerprint'
  written[#written + 1] = ARGV[4]
end
if ends then
  written[#written + 1] = 'expires_at'
  written[#written + 1] = digits(ends)
end
redis.call('HSET', key, unpack(written))
if live and state == 'failed' then
  redis.call('HDEL', key, 'result', 'retry_at')
end
if ends then
  reclaim(ends, expires_at)
elseif expires_at then
  redis.call('HDEL', key, 'expires_at')
  reclaim()
end
return granted(checkpoint)
