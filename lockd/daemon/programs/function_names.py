"""The names of virtlockd's functions that its error messages contain.

Clients see these messages, so lockd sends the same names (measured).
"""

from typing import Final

from lockd.wire import admin, lock

LOCK: Final = {
    lock.Procedure.REGISTER: "virLockSpaceProtocolDispatchRegister",
    lock.Procedure.RESTRICT: "virLockSpaceProtocolDispatchRestrict",
    lock.Procedure.NEW: "virLockSpaceProtocolDispatchNew",
    lock.Procedure.CREATE_RESOURCE: "virLockSpaceProtocolDispatchCreateResource",
    lock.Procedure.DELETE_RESOURCE: "virLockSpaceProtocolDispatchDeleteResource",
    lock.Procedure.ACQUIRE_RESOURCE: "virLockSpaceProtocolDispatchAcquireResource",
    lock.Procedure.RELEASE_RESOURCE: "virLockSpaceProtocolDispatchReleaseResource",
}
"""The names by the procedures of the lock program. CREATE_LOCKSPACE has none: it has no flags, so no error
message names its function."""

ADMIN: Final = {
    admin.Procedure.CONNECT_OPEN: "adminDispatchConnectOpen",
    admin.Procedure.LIST_SERVERS: "adminConnectListServers",
    admin.Procedure.GET_THREADPOOL_PARAMETERS: "adminServerGetThreadPoolParameters",
    admin.Procedure.SET_THREADPOOL_PARAMETERS: "adminServerSetThreadPoolParameters",
    admin.Procedure.LIST_CLIENTS: "adminServerListClients",
    admin.Procedure.LOOKUP_CLIENT: "adminServerLookupClient",
    admin.Procedure.CLIENT_GET_INFO: "adminClientGetInfo",
    admin.Procedure.CLIENT_CLOSE: "adminClientClose",
    admin.Procedure.GET_CLIENT_LIMITS: "adminServerGetClientLimits",
    admin.Procedure.SET_CLIENT_LIMITS: "adminServerSetClientLimits",
    admin.Procedure.GET_LOGGING_OUTPUTS: "adminConnectGetLoggingOutputs",
    admin.Procedure.GET_LOGGING_FILTERS: "adminConnectGetLoggingFilters",
    admin.Procedure.SET_LOGGING_OUTPUTS: "adminConnectSetLoggingOutputs",
    admin.Procedure.SET_LOGGING_FILTERS: "adminConnectSetLoggingFilters",
    admin.Procedure.UPDATE_TLS_FILES: "adminServerUpdateTlsFiles",
    admin.Procedure.SET_DAEMON_TIMEOUT: "adminConnectSetDaemonTimeout",
    admin.Procedure.DAEMON_SHUTDOWN: "adminConnectDaemonShutdown",
}
"""The names by the procedures of the admin program."""
