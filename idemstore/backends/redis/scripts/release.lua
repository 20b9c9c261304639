-- release: give the key back as if it had never been claimed. machine.RELEASE.
--
-- ARGV: token.
-- Answers: done (deleted) | same (nothing there: perhaps the second delivery of the same release) | lost.

if not live then
  return redis.status_reply('same')
end
if token ~= ARGV[1] or state ~= 'in-flight' then
  return redis.status_reply('lost')
end
redis.call('DEL', key)
tell()
return redis.status_reply('done')
