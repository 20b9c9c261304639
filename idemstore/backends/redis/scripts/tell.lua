-- Put between the head and the scripts that end a claim, where the store notifies: wake who waits for the key.
--
-- The channel has the key's own name. A server that does not allow it (ACL) is asked for nothing else: waiters poll then.

local function tell()
  redis.pcall('PUBLISH', key, '')
end
