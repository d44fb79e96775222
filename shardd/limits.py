"""Every bound, size and time of the server, with its unit in the name and one reason each.

What a client or an operator can notice has nats-server's default (fact: its documented
configuration); what is shardd's own says why it has the value it has.
"""

from typing import Final

# --- nats-server's defaults -------------------------------------------------------------------
PORT: Final = 4222
HOST: Final = "0.0.0.0"
CONNECTIONS_MAX: Final = 65_536
PAYLOAD_BYTES_MAX: Final = 1_048_576
PENDING_BYTES_MAX: Final = 64 * 1_048_576
CONTROL_LINE_BYTES_MAX: Final = 4096
SUBSCRIPTIONS_MAX: Final = 0  # 0: no limit
PING_INTERVAL_S: Final = 120.0
PINGS_OUT_MAX: Final = 2
FIRST_PING_S: Final = 2.0  # after CONNECT, plus up to a fifth at random
WRITE_DEADLINE_S: Final = 10.0
AUTH_TIMEOUT_S: Final = 2.0
TLS_TIMEOUT_S: Final = 2.0
LAME_DUCK_DURATION_S: Final = 120.0
CLOSED_CLIENTS_MAX: Final = 10_000
LAME_DUCK_GRACE_S: Final = 10.0
ACCEPT_BACKOFF_S_MIN: Final = 0.010
ACCEPT_BACKOFF_S_MAX: Final = 1.0

# A producer is held back once a consumer of its messages has this share of its limit queued.
STALL_SHARE: Final = 0.75
STALL_MS: Final = 2  # for a delivery
STALL_OVER_LIMIT_MS: Final = 5
STALL_MS_MAX: Final = 10  # for one read of one producer

# --- shardd's own -----------------------------------------------------------------------------
# One process is one bit of a 64-bit mask; four are left for the router and a streaming pool.
PROCESSES_MAX: Final = 64
WORKERS_MAX: Final = 60
STREAMING_WORKERS_MAX: Final = 16  # as many as a store has parts
# The number of an account that no client can be in and no route carries: messages between processes
# of the host.
PRIVATE_ACCOUNT: Final = 2**32 - 1

# One ring per process. Large enough that a consumer may pause for a few milliseconds under full
# load, small enough to stay in a shared last-level cache.
RING_BYTES: Final = 4 * 1_048_576
RING_BYTES_MIN: Final = 65_536
# The longest record in a ring is this share of it (precedent: Aeron); longer messages go by ZeroMQ.
RING_RECORD_SHARE: Final = 8
# A batch is published at this size at the latest, so that consumers start before it is complete.
BATCH_BYTES: Final = 32_768
# Messages too large for the ring, sent and not yet consumed. Beyond it publishers pause. Together
# with the ring it stays below the quarter of a client's limit that is left when its publishers are
# asked to slow down, so that what is under way cannot cut off a client that keeps up.
OVERSIZE_BYTES_MAX: Final = 8 * 1_048_576

# One read buffer per worker; what one connection may hand in before the others have their turn. A
# connection whose messages are large may hand in more: a read is then still few messages.
READ_BYTES: Final = 131_072
READ_BYTES_MAX: Final = 524_288
# What a producer that is held back may hand in between two stalls: nats-server's longest read, so
# that a consumer has as much time to catch up.
READ_BYTES_STALLED: Final = 65_536
READ_MESSAGES_FEW: Final = 512
READ_MESSAGES_MANY: Final = 4096
# Output is kept in chunks of this size, which go back to a pool when they have been written.
CHUNK_BYTES: Final = 65_536
# A peer with this much queued is written to at once, in the middle of a pass.
EAGER_FLUSH_BYTES: Final = 262_144

# One WebSocket message is taken whole before it is handled; no more than a connection may have
# queued in the other direction.
WEBSOCKET_MESSAGE_BYTES_MAX: Final = 64 * 1_048_576
# Before it is known who the peer is: a CONNECT, with the largest token that is read.
WEBSOCKET_STRANGER_BYTES_MAX: Final = 65_536
ADDRESS_CHARACTERS_MAX: Final = 64  # of what a proxy says of where a client is

# The match cache: results kept, and bytes they may take, per process.
MATCH_CACHE_ENTRIES: Final = 32_768
MATCH_CACHE_BYTES_MAX: Final = 64 * 1_048_576

# Verdicts of one user's permissions that are kept, per process: most users use few subjects.
PERMISSION_CACHE_ENTRIES: Final = 1024
PERMISSION_CACHE_BYTES_MAX: Final = 262_144
# Replies that one connection may publish because it was asked: far more requests than a service has
# under way. Beyond it the oldest are forgotten, which costs at most 20 MiB a connection.
REPLY_GRANTS_MAX: Final = 65_536

# Subjects that a mapping or an import was worked out for, per account or subscription.
MAPPED_SUBJECTS_MAX: Final = 4096
# Requests to imported services that wait for a response, per process, and for how long
# (nats-server's default threshold).
PENDING_RESPONSES_MAX: Final = 65_536
RESPONSE_S_MAX: Final = 120.0

# Entries of a snapshot of interest that travel in one message: a few milliseconds of work.
SNAPSHOT_ENTRIES: Final = 4096

# Users and accounts with limits of their own that a host counts, over all its reloads.
QUOTA_ENTRIES: Final = 65_536
# What a limit on a rate lets through at once: this much of a second's share.
QUOTA_BURST_S: Final = 0.1
# How long a publisher that was ahead of its rate is held back at the most, and what one read of a
# client whose rate is limited hands in: a quarter of a second's share, but no less than this.
QUOTA_DEBT_S_MAX: Final = 2.0
QUOTA_READ_S: Final = 0.25
QUOTA_READ_BYTES_MIN: Final = 512
PUBLISH_BYTES_MIN: Final = 11  # the shortest message: PUB a 0

# Routes. A control line may name many queue groups; a message may be larger than what clients of
# this host may publish (sheet 10.6), but is held in memory until it is whole.
ROUTE_CONTROL_LINE_BYTES_MAX: Final = 65_536
ROUTE_PAYLOAD_BYTES_MAX: Final = 128 * 1_048_576
# A remote host is one bit of a 64-bit mask in the index of what other hosts want.
PEERS_MAX: Final = 64
# Members of a sticky queue group on one pattern that a process tells the others one by one, at each
# change: some kilobytes. With more the process counts as one candidate.
STICKY_MEMBERS_MAX: Final = 256
# Connections of one pool: what a peer announces is believed up to here.
ROUTE_POOL_MAX: Final = 1024

# Connections to monitoring over HTTP: tools keep one or two each, and a page six.
MONITORING_CONNECTIONS_MAX: Final = 128

# Questions of `shardd routes` and its like: how many at once, and how long either side waits for
# the other to go on.
INQUIRIES_MAX: Final = 8
INQUIRY_BYTES_MAX: Final = 4096
# One part of an answer: a page of connections with their subscriptions fits in it.
INQUIRY_PART_BYTES_MAX: Final = 256 * 1_048_576
INQUIRY_S_MAX: Final = 10.0

# Supervision. A worker beats every tick; one that is silent for the whole limit is killed.
HEARTBEAT_S: Final = 0.25
HEARTBEAT_SILENCE_S: Final = 5.0
BOOT_S_MAX: Final = 10.0  # from fork to ready
STREAMING_BOOT_S_MAX: Final = 600.0  # the same of one that first reads a store
RESTART_BACKOFF_S_MIN: Final = 0.05
RESTART_BACKOFF_S_MAX: Final = 5.0
BOOT_FAILURES_MAX: Final = 3  # in a row, before the supervisor gives up
STOP_S_MAX: Final = 5.0  # from TERM to the kill of a worker that will not end
# From TERM until clients are closed that have not read all that is queued for them: as long as
# they read, but less than what the supervisor waits for; or when none of them reads any more.
DRAIN_S_MAX: Final = 4.0
DRAIN_IDLE_S_MAX: Final = 0.5
LISTEN_BACKLOG: Final = 4096
