//! Every bound, with its unit and its reason.

/// Bytes of a device, group, app, secret or verb name (PROTOCOL: `[a-z0-9][a-z0-9_-]{0,62}`).
pub const NAME_BYTES: usize = 63;
/// Bytes of a container name (podman's rule plus a bound that fits one path component).
pub const CONTAINER_NAME_BYTES: usize = 128;
/// Bytes of an image reference: host name and port 253 + 6, repository 255, tag 128, digest 71, separators. The sum of the bounds of
/// its parts, so that whatever is accepted can also be pinned.
pub const REFERENCE_BYTES: usize = 716;
/// Bytes of a manifest or an index (the common registries' own bound).
pub const MANIFEST_BYTES: usize = 4 << 20;
/// Bytes of an image configuration.
pub const IMAGE_CONFIG_BYTES: usize = 4 << 20;
/// Layers of one image (overlay mounts 500 at the most; Docker's own bound is 127).
pub const LAYERS: usize = 127;
/// Entries of one index.
pub const INDEX_ENTRIES: usize = 256;
/// Bytes of the host's bundle of certificate authorities (Debian's has 220 KB).
pub const AUTHORITIES_BYTES: u64 = 4 << 20;
/// Bytes of a file of the ecosystem: registries.conf, auth.json, a certificate.
pub const ECOSYSTEM_FILE_BYTES: u64 = 1 << 20;
/// `[[registry]]` tables, mirrors of one of them, and aliases.
pub const REGISTRY_TABLES: usize = 1024;
/// Drop-in files of one folder.
pub const DROP_INS: usize = 128;
/// Files of one registry's folder in certs.d.
pub const CERTIFICATE_FILES: usize = 64;
/// Bytes of one blob (more than any device of ours can hold; a larger size is a mistake or an attack).
pub const BLOB_BYTES: u64 = 64 << 30;
/// Hosts of which the registry client remembers how to speak to them.
pub const REGISTRY_HOSTS: usize = 64;
/// Connections that the registry client keeps open without a request.
pub const IDLE_CONNECTIONS: usize = 8;
/// Bytes of a connection's read buffer.
pub const READ_BUFFER_BYTES: usize = 64 << 10;
/// Bytes of a URL in a redirect or an authentication challenge (signed URLs of object stores have about 2 KiB).
pub const URL_BYTES: usize = 8 << 10;
/// Redirects of one request.
pub const REDIRECTS: usize = 5;
/// Bytes of an error's body that are read.
pub const ERROR_BODY_BYTES: usize = 8 << 10;
/// Bytes of a token server's answer.
pub const TOKEN_BYTES: usize = 64 << 10;
/// Addresses of one host that are tried.
pub const ADDRESSES: usize = 16;
/// Bytes that a failing blob must have moved on for its tries to count anew.
pub const PROGRESS_BYTES: u64 = 16 << 10;
/// Tags of one repository that are listed; more are refused by name.
pub const TAGS: usize = 100_000;
/// Pages of one list of tags (registries give 100 or 1,000 a page).
pub const TAG_PAGES: usize = 2_000;
/// Bytes of one page of tags.
pub const TAG_PAGE_BYTES: usize = 4 << 20;
/// Depth of indexes in indexes.
pub const INDEX_DEPTH: usize = 3;
/// Apps of one desired state.
pub const APPS: usize = 64;
/// Bytes of an MQTT packet's payload.
pub const DOCUMENT_BYTES: usize = 64 << 10;
/// Bytes of the inline `apps` of a desired state.
pub const APPS_BYTES: usize = 32 << 10;
/// Bytes of the apps that `apps_ref` names.
pub const SET_BYTES: usize = 256 << 10;
/// Bytes of an app document in TOML.
pub const APP_FILE_BYTES: usize = 64 << 10;
/// Bytes of a settings or board file.
pub const CONFIG_FILE_BYTES: usize = 256 << 10;
/// Environment variables of one container.
pub const ENV_VARS: usize = 1024;
/// Bytes of one argument or environment variable (the kernel's MAX_ARG_STRLEN).
pub const ARG_BYTES: usize = 128 << 10;
/// Arguments of one command.
pub const ARGS: usize = 4096;
/// Mounts of one container.
pub const MOUNTS: usize = 256;
/// Mappings of published ports of one container.
pub const PORT_MAPPINGS: usize = 64;
/// Published ports of one container, those of ranges counted: each is a descriptor of the network's helper.
pub const PUBLISHED_PORTS: usize = 1024;
/// Name servers, search domains or resolver options of one container.
pub const DNS_ENTRIES: usize = 16;
/// Milliseconds that the network's helper may take until the network is up.
pub const NETWORK_START_MS: u64 = 15_000;
/// Bytes of one path.
pub const PATH_BYTES: usize = 4096;
/// Bytes of a packet on a local socket (keeper, monitor).
pub const PACKET_BYTES: usize = 64 << 10;
/// Bytes of a record on disk.
pub const RECORD_BYTES: usize = 1 << 20;
/// Bytes of one log file of a container before it is rotated, unless asked otherwise.
pub const LOG_FILE_BYTES: u64 = 1 << 20;
/// The same where logs are in memory.
pub const LOG_FILE_BYTES_MEMORY: u64 = 256 << 10;
/// Log files of a container, the current one included.
pub const LOG_FILES: u32 = 2;
/// Shortest interval of a health probe, milliseconds.
pub const PROBE_INTERVAL_MIN_MS: u64 = 100;
/// Seconds that `stop` waits before it kills.
pub const STOP_TIMEOUT_S: u32 = 10;
/// Lists and objects in each other of a document in the compact form; none of ours has ten.
pub const DOCUMENT_DEPTH: usize = 32;
/// Signature entries of one envelope.
pub const SIGNATURES: usize = 16;
/// Audiences of which the device keeps generation floors.
pub const FLOORS: usize = 64;
/// Final deployment records that are kept on disk.
pub const FINAL_RECORDS: usize = 8;
/// Seconds that a signed document may be ahead of a synchronised clock.
pub const FUTURE_S: u64 = 24 * 3600;
/// Bytes of the file of commands and their answers: above what so many of the longest need.
pub const COMMAND_BYTES: u64 = 64 << 20;
/// Command ids that are kept for one session.
pub const COMMAND_IDS: usize = 256;
/// Bytes of a seccomp profile (podman's own has 20 KiB).
pub const SECCOMP_PROFILE_BYTES: usize = 1 << 20;
/// Versions that are held in quarantine; the oldest is let go first (a device has few apps and fails rarely).
pub const QUARANTINED: usize = 64;
/// Levels of control groups that a container may nest before its removal stops looking deeper.
pub const CGROUP_DEPTH: usize = 32;
/// Milliseconds that a control group's tasks may take to stop.
pub const CGROUP_FREEZE_MS: u64 = 2000;
/// Milliseconds that the removal of a control group waits for tasks that are just ending.
pub const CGROUP_REMOVE_MS: u64 = 2000;
/// Bytes of one log file at the least: some lines of output must fit.
pub const LOG_FILE_BYTES_MIN: u64 = 16 << 10;
/// Log files of a container at the most.
pub const LOG_FILES_MAX: u32 = 32;
/// Connections to one monitor at the same time, sessions and subscribers included; more are refused.
pub const MONITOR_CLIENTS: usize = 32;
/// Execs at the same time in one container, a probe included; more are refused.
pub const EXECS: usize = 32;
/// Exit codes of detached execs that are kept until somebody asks; the oldest goes first.
pub const EXECS_KEPT: usize = 32;
/// Milliseconds that an attached reader, the foreground runner aside, may hold the container's output up before it is cut
/// off.
pub const ATTACH_STALL_MS: u64 = 10_000;
/// Milliseconds that a connection may be silent before its first request.
pub const MONITOR_IDLE_MS: u64 = 30_000;
/// Milliseconds that output may still come after the last process of a container ended.
pub const DRAIN_MS: u64 = 5_000;
/// Health probes that are remembered (podman's number).
pub const PROBES_KEPT: usize = 5;
/// Bytes that are remembered of what a probe said (podman's number).
pub const PROBE_OUTPUT_BYTES: usize = 500;
/// Bytes of an HTTP probe's answer that are read.
pub const PROBE_ANSWER_BYTES: usize = 4096;
/// Bytes of events that may wait for a subscriber in its socket before it loses some.
pub const SUBSCRIBER_BYTES: i32 = 32 << 10;
/// Secrets of one device; each has a floor of its own.
pub const SECRETS: usize = 32;
/// Bytes of one secret: twice in base64, and with its envelope, it stays below a document's.
pub const SECRET_BYTES: usize = 32 << 10;
/// Groups of one device: with its own filters they fit one SUBSCRIBE twice over.
pub const GROUPS: usize = 8;
/// Local app documents in the apps folder.
pub const LOCAL_APPS: usize = APPS;
/// Milliseconds after `issued_at` at which a document expires that says nothing: 90 days.
pub const DOCUMENT_LIFE_MS: u64 = 90 * 86_400_000;
/// Bytes that the reader of a layer's archive holds; also the largest write to one file.
pub const TAR_BUFFER_BYTES: usize = 256 << 10;
/// Bytes of a PAX header, a long name or a long link in an archive (Go's bound).
pub const TAR_PAX_BYTES: usize = 1 << 20;
/// Extended attributes of one entry of an archive.
pub const TAR_XATTRS: usize = 256;
/// Stored ranges of one sparse file in an archive.
pub const TAR_SEGMENTS: usize = 65_536;
/// Components of a path in a layer; each one on the way is an open descriptor of the worker.
pub const LAYER_DEPTH: usize = 250;
/// Bytes of one component of a path (NAME_MAX).
pub const FILE_NAME_BYTES: usize = 255;
/// Repositories that a push tries to mount a layer from.
pub const MOUNT_SOURCES: usize = 3;
/// Members of an archive of images (`docker save`): each layer of each image is a few.
pub const ARCHIVE_MEMBERS: usize = 16_384;
/// Bytes of all their names.
pub const ARCHIVE_NAMES_BYTES: usize = 2 << 20;
/// Entries of one layer.
pub const LAYER_ENTRIES: u64 = 1 << 20;
/// Bytes of one layer's files, whatever the disk has.
pub const LAYER_BYTES: u64 = 64 << 30;
/// Bytes that a layer may always unpack to, however well it was compressed.
pub const LAYER_RATIO_FREE_BYTES: u64 = 256 << 20;
/// Beyond that: how many times its compressed size a layer may unpack to. Files of zeros reach 1,000 with gzip.
pub const LAYER_RATIO: u64 = 512;
/// Bytes of path names that a layer may leave to be looked up in those below it.
pub const LAYER_NEEDS_BYTES: usize = 4 << 20;
/// Bytes of a large file that are written before they are sent to the device and leave the page cache.
pub const WRITE_BEHIND_BYTES: u64 = 8 << 20;
/// Files of a layer whose digests the worker holds in memory (10 MiB); with more, all are read back.
pub const SUMS_FILES: usize = 256 << 10;
/// Bytes of a layer's file of sums (about 60 for an entry); a layer that needs more has none and cannot be checked.
pub const SUMS_BYTES: u64 = 128 << 20;
/// Things wrong with one layer that are listed one by one; beyond, they are counted.
pub const CHECK_FINDINGS: u64 = 200;
/// Bytes that a check reads between two words about its progress.
pub const CHECK_STEP_BYTES: u64 = 16 << 20;
/// Milliseconds that the source of a layer may stall before its worker gives up.
pub const LAYER_STALL_MS: u64 = 600_000;
/// Milliseconds that a worker may take from the end of its input to its reply: syncing slow flash is the longest part.
pub const WORKER_REPLY_MS: u64 = 1_800_000;
/// Bytes of compressed input that a decoder holds.
pub const DECODE_BUFFER_BYTES: usize = 64 << 10;
/// Bytes of a layer, compressed and not, between two places from which it can be gone on with: what a kill costs.
pub const CHECKPOINT_BYTES: u64 = 256 << 10;
/// Bytes of a layer's archive between two words of its worker about how far it is.
pub const CHECKPOINT_ARCHIVE_BYTES: u64 = 256 << 10;
/// Compressed bytes of a layer between two such places that are on the device: what a power cut costs, with what comes while the
/// device is written.
pub const CHECKPOINT_SYNC_BYTES: u64 = 4 << 20;
/// Compressed bytes beyond the last place on the device at which a layer waits for the device.
pub const CHECKPOINT_WAIT_BYTES: u64 = 6 << 20;
/// Bytes of what a worker says about its state; a layer that needs more cannot be gone on with there.
pub const CHECKPOINT_STATE_BYTES: usize = 48 << 10;
/// Images that are kept between their pull and their first use: those of one set of apps, and of the one that it replaces.
pub const PULL_HOLDS: usize = 2 * APPS;
/// Layers that were begun and not finished which are kept to be gone on with; the oldest go first.
pub const PARTS: usize = 32;
/// Bytes of all those layers.
pub const PARTS_BYTES: u64 = 8 << 30;
/// Milliseconds that one is kept: a week.
pub const PART_LIFE_MS: u64 = 7 * 86_400_000;
/// Largest zstd window, as a power of two: 8 MiB, what level 19 and all common tools use; larger ones are refused by name.
pub const ZSTD_WINDOW_LOG: u32 = 23;
/// Entries that `tmpcopyup` copies into one tmpfs (it lives in the container's memory), or `copy` into a new volume.
pub const COPY_UP_ENTRIES: usize = 16 << 10;
/// Directories that `tmpcopyup` descends.
pub const COPY_UP_DEPTH: usize = 64;
/// Bytes of a container's /etc/passwd or /etc/group that are read to find its user.
pub const PASSWD_BYTES: usize = 1 << 20;
/// Supplementary groups of a process (a quarter of what the kernel takes).
pub const USER_GROUPS: usize = 16 << 10;
/// Seconds that a container's or an exec's process may take until its program runs.
pub const READY_S: u64 = 60;
/// Layers of one pull that are fetched at the same time: enough to keep a link and two cores busy.
pub const LAYERS_IN_FLIGHT: usize = 3;
/// Milliseconds that a layer which another process is pulling is waited for.
pub const LAYER_BUSY_MS: u64 = 3_600_000;
/// Bytes of the pipes between the helpers of a pull: what is in them is fetched again after a kill.
pub const PIPE_BYTES: usize = 256 << 10;
/// Bytes of the pipe with what is still compressed.
pub const FEED_PIPE_BYTES: usize = 128 << 10;
/// Bytes of the disk that a pull leaves free, unless told otherwise.
pub const DISK_RESERVE_BYTES: u64 = 64 << 20;
/// Bytes of an app's volumes that are copied before an update, where the file system cannot share them: the app stands still meanwhile.
pub const SNAPSHOT_BYTES: u64 = 1 << 30;
/// Bytes that the deployer keeps for itself, for a way back on a full disk.
pub const AGENT_ROOM_BYTES: u64 = 1 << 20;
/// Progress events of a pull that wait for whoever shows them.
pub const PROGRESS_QUEUE: usize = 64;
/// Inputs of the deployer that wait for its thread (events of every app, a few of each).
pub const DEPLOYER_INPUTS: usize = 256;
/// Jobs of the deployer that run at once (a fetch for each source, and some starts and stops).
pub const DEPLOYER_JOBS: usize = 8;
/// Milliseconds that a run may take to begin: its mounts may be slow.
pub const RUN_START_MS: u64 = 60_000;
/// Milliseconds that an exec may take to begin.
pub const EXEC_START_MS: u64 = 30_000;
/// Bytes of a bundle's `config.json`: a record's, and its filter's, written as JSON.
pub const BUNDLE_BYTES: u64 = 4 << 20;
/// Bytes of /etc/subuid and /etc/subgid (a line has 30; a host with 10,000 users).
pub const SUBID_FILE_BYTES: u64 = 1 << 20;
/// Ranges of subordinate ids that are used for one store (the kernel takes 340 lines in all).
pub const SUBID_RANGES: usize = 64;
/// Connections to a keeper at the same time; more are refused.
pub const KEEPER_CLIENTS: usize = 64;
/// Monitors and workers of one keeper that have not ended; more are refused.
pub const KEEPER_CHILDREN: usize = 512;
/// Milliseconds that a keeper without containers and connections stays before it leaves.
pub const KEEPER_IDLE_MS: u64 = 10_000;
/// Milliseconds that a keeper may take to come up.
pub const KEEPER_START_MS: u64 = 20_000;
/// Milliseconds that newuidmap and newgidmap may take (they may ask a directory service).
pub const KEEPER_IDMAP_MS: u64 = 10_000;
/// Milliseconds that a monitor may take to start its container (a flat copy of the image on slow flash).
pub const KEEPER_MONITOR_MS: u64 = 300_000;
/// Milliseconds that containers have to end when the keeper is told to stop (systemd allows a unit 90 s).
pub const KEEPER_STOP_MS: u64 = 80_000;
/// Milliseconds that what it then kills may take to be gone; waited for twice.
pub const KEEPER_KILL_MS: u64 = 2000;
/// Milliseconds that an ordinary answer of a keeper may take.
pub const KEEPER_ANSWER_MS: u64 = 10_000;
/// Bytes of a layer that are still fetched, after its archive turned out to be unusable, to learn whether the link was to blame.
pub const BLAME_BYTES: u64 = 4 << 20;
/// Milliseconds that a worker waits for its order once it runs.
pub const WORKER_ORDER_MS: u64 = 60_000;
/// Values that a document of JSON or TOML may hold; each costs some 100 bytes while it is read.
pub const DOCUMENT_VALUES: usize = 1 << 17;
/// Places of a field's name that an error of a document shows, from the outermost on.
pub const DOCUMENT_PLACES: usize = 12;
/// Keys of one requirement in policy.json.
pub const POLICY_KEYS: usize = 16;
/// Signatures of one image that are looked at.
pub const IMAGE_SIGNATURES: usize = 32;
/// Bytes of what one of them signs (it has some 300).
pub const SIGNED_PAYLOAD_BYTES: usize = 64 << 10;
