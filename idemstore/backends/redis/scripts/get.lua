-- get: read a record without touching it.
--
-- Answers: absent | record now state token fence attempt fingerprint lease_until expires_at retry_at result checkpoint
-- (nil for what does not apply).

if not live then
  return {'absent'}
end
return {'record', now, state, token, fence, attempt, fingerprint or false, lease_until or false, expires_at or false,
  retry_at or false, result or false, redis.call('HGET', key, 'checkpoint')}
