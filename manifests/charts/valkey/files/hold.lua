-- A client that comes while there is no master is kept waiting instead of being sent away: Synapse comes back after
-- 5 to 10 seconds only, whatever the reason was.
local POLL_MILLISECONDS = 100

local backends = {}
for name in string.gmatch(os.getenv("MASTER_BACKENDS"), "%S+") do
    backends[#backends + 1] = name
end

local function has_master(txn)
    for _, name in ipairs(backends) do
        if txn.f:nbsrv(name) > 0 then
            return true
        end
    end
    return false
end

core.register_action("await_master", { "tcp-req" }, function(txn)
    local polls = tonumber(os.getenv("HOLD_SECONDS")) * 1000 / POLL_MILLISECONDS
    while polls > 0 and not has_master(txn) do
        core.msleep(POLL_MILLISECONDS)
        polls = polls - 1
    end
end)
