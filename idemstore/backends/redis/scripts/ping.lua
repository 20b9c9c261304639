-- ping: the server's clock, and whether this user may run what the other scripts run. Writes nothing.
--
-- KEYS[1] lies under the prefix; whether anything is stored there does not matter. Redis 6 cannot be asked for a
-- permission without using it: there only the read is proven.

local time = redis.call('TIME')
if redis.acl_check_cmd then
  local wanted = {
    {'HMGET', KEYS[1], 'state'},
    {'HGET', KEYS[1], 'result'},
    {'EXISTS', KEYS[1]},
    {'HSET', KEYS[1], 'state', 'in-flight'},
    {'HDEL', KEYS[1], 'result'},
    {'DEL', KEYS[1]},
    {'PEXPIREAT', KEYS[1], '1'},
    {'PERSIST', KEYS[1]},
  }
  for _, command in ipairs(wanted) do
    if not redis.acl_check_cmd(unpack(command)) then
      return redis.error_reply('NOPERM ' .. command[1] .. ' is not allowed on keys under the prefix')
    end
  end
else
  redis.call('EXISTS', KEYS[1])
end
return time[1] * 1000000 + time[2]
