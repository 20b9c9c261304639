-- The head of every script: read the record at KEYS[1], check it, and read it with the clock.
--
-- The scripts translate idemstore/machine.py by hand; the contract suite holds them to it. This head is put in front of
-- each of them. It leaves behind: key, now, exists, live (exists, and its retention is not over), the fields as locals
-- (numbers as numbers, absent ones nil), result where the record is finished, and the helpers below.
--
-- A record is one hash: state, token, fence, attempt, and, where they apply, fingerprint, lease_until, expires_at,
-- retry_at, result, checkpoint. Times are microseconds since the epoch. Lua's numbers are exact up to 2^53, which
-- microseconds reach in the year 2255. Results and checkpoints are bytes; nothing here looks into them.
--
-- No shebang: the scripts run on Redis 6, which knows none. No script writes before it has decided, and what it then
-- writes first is one HSET of everything that counts.

local key = KEYS[1]

-- Once: Valkey and Redis 7.2 freeze the clock of a script, Redis 7.0 does not.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- Keep a record this long (milliseconds) behind the end of its retention. The time to live reclaims memory, no more:
-- whether a record counts is decided by expires_at. The margin lets a key's fence grow on across its expired lives even
-- where a failover turns the clock back a little.
local MARGIN = 10000

-- How much later than that the server may reclaim it, if that saves a command (microseconds).
local SLACK = 60000000

local function whole(text)
  if text and #text < 17 and string.find(text, '^%d+$') then
    return tonumber(text)
  end
  return nil
end

local function digits(number)
  return string.format('%.0f', number)
end

-- Let the server reclaim the key after `moment`; nil: never. `before`: what was asked for last. Where that is a little
-- later (a result is mostly kept as long as its claim would have been), the key's time to live is left as it is.
local function reclaim(moment, before)
  if not moment then
    redis.call('PERSIST', key)
  elseif not before or before < moment or before - moment > SLACK then
    redis.call('PEXPIREAT', key, digits(math.ceil(moment / 1000) + MARGIN))
  end
end

-- A string of any other type under our key is not a record. Other errors (no permission) are for the caller.
local found = redis.pcall('HMGET', key, 'state', 'token', 'fence', 'attempt', 'fingerprint', 'lease_until',
  'expires_at', 'retry_at')
if found.err then
  if string.find(found.err, 'WRONGTYPE', 1, true) then
    return {'corrupt', 'it is no hash'}
  end
  return found
end

local state, token, fingerprint = found[1], found[2], found[5]
local fence, attempt = whole(found[3]), whole(found[4])
local lease_until, expires_at, retry_at = whole(found[6]), whole(found[7]), whole(found[8])
local exists, live, result = false, false, nil

if state then
  if state == 'in-flight' then
    if not lease_until then
      return {'corrupt', 'lease_until is missing or no number'}
    end
  elseif state == 'completed' or state == 'failed' then
    result = redis.call('HGET', key, 'result')
    if not result then
      return {'corrupt', 'result is missing'}
    end
  else
    return {'corrupt', 'state is unknown'}
  end
  if not token or token == '' then
    return {'corrupt', 'token is missing'}
  end
  if not fence or not attempt or attempt < 1 then
    return {'corrupt', 'fence or attempt is missing or no number'}
  end
  if (found[7] and not expires_at) or (found[8] and not retry_at) then
    return {'corrupt', 'expires_at or retry_at is no number'}
  end
  exists = true
  live = not expires_at or expires_at > now
elseif redis.call('EXISTS', key) == 1 then
  return {'corrupt', 'state is missing'}
end
