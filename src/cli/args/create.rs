//! Arguments of `run` and `create`.

use super::image::{PlatformArgs, RegistryArgs};
use clap::Args;
use std::path::PathBuf;

/// `run`: `create`, then start and attach.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  dunlin run -it --rm registry.example/alpine sh\n  \
                  dunlin run -d --name web --memory 64m --cpus 0.5 registry.example/web:1.4\n  \
                  echo hello | dunlin run -i --rm registry.example/alpine cat\n  \
                  dunlin run -d -p 8080:80 registry.example/web:1.4\n  \
                  dunlin run -v data:/var/lib/web -v /etc/web.conf:/etc/web.conf:ro registry.example/web"
)]
pub struct RunArgs {
    /// Run in the background and print the id
    #[arg(short, long)]
    pub detach: bool,
    /// Streams to attach: stdin, stdout, stderr
    #[arg(short, long, value_name = "STREAM")]
    pub attach: Vec<String>,
    /// Keys that detach
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    pub detach_keys: String,
    /// Pass signals on [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub sig_proxy: Option<bool>,
    #[command(flatten)]
    pub create: CreateArgs,
}

/// Network of a container or a pod.
#[derive(Debug, Clone, Default, Args)]
pub struct NetworkArgs {
    /// private, host, none or container:NAME
    #[arg(long, visible_alias = "net", value_name = "MODE", help_heading = "Network")]
    pub network: Vec<String>,
    /// Publish ports: [[IP:][HOST]:]CONTAINER[/udp], ranges with `-`
    #[arg(short, long, value_name = "SPEC", help_heading = "Network")]
    pub publish: Vec<String>,
    /// Name servers instead of the host's
    #[arg(long, value_name = "IP", help_heading = "Network")]
    pub dns: Vec<String>,
    /// Domains to search instead of the host's; `.` for none
    #[arg(long, value_name = "DOMAIN", help_heading = "Network")]
    pub dns_search: Vec<String>,
    /// Options of the resolver instead of the host's
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION", help_heading = "Network")]
    pub dns_option: Vec<String>,
    /// Line of /etc/hosts: NAME:IP; NAME:host-gateway for the host
    #[arg(long, value_name = "NAME:IP", help_heading = "Network")]
    pub add_host: Vec<String>,
}

/// `create`.
#[derive(Debug, Clone, Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  dunlin create --name web registry.example/web:1.4\n  dunlin start web"
)]
pub struct CreateArgs {
    /// Show this help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,

    /// Name of the container instead of a made-up one
    #[arg(long)]
    pub name: Option<String>,
    /// Remove it when it ends
    #[arg(long)]
    pub rm: bool,
    /// Keep its input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove a container that has this name already
    #[arg(long)]
    pub replace: bool,
    /// Write the id to a file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,

    /// When to pull the image: missing, always, never, newer
    #[arg(long, num_args = 0..=1, default_value = "missing", default_missing_value = "always", require_equals = false,
          value_parser = ["missing", "always", "never", "newer", "true", "false"], value_name = "POLICY")]
    pub pull: String,
    /// No progress of a pull
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub platform: PlatformArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,

    /// Environment: NAME=VALUE, or NAME to copy it
    #[arg(short, long, value_name = "NAME=VALUE", help_heading = "Process")]
    pub env: Vec<String>,
    /// Read environment from a file
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub env_file: Vec<PathBuf>,
    /// Leave out variables of the image
    #[arg(long, value_name = "NAME", help_heading = "Process")]
    pub unsetenv: Vec<String>,
    /// Program instead of the image's: text or a JSON list
    #[arg(long, value_name = "PROGRAM", help_heading = "Process")]
    pub entrypoint: Option<String>,
    /// Working directory inside
    #[arg(short, long, value_name = "DIR", help_heading = "Process")]
    pub workdir: Option<String>,
    /// USER[:GROUP] inside
    #[arg(short, long, help_heading = "Process")]
    pub user: Option<String>,
    /// Further groups inside
    #[arg(long, value_name = "GROUP", help_heading = "Process")]
    pub group_add: Vec<String>,
    /// Mode bits that new files do not get [default: 0022]
    #[arg(long, value_name = "OCTAL", help_heading = "Process")]
    pub umask: Option<String>,
    /// How readily the kernel kills it when memory runs out: 0 to 1000
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, help_heading = "Process")]
    pub oom_score_adj: Option<i32>,
    /// Host name inside
    #[arg(short = 'h', long, value_name = "NAME", help_heading = "Process")]
    pub hostname: Option<String>,
    /// Labels
    #[arg(short, long, value_name = "KEY=VALUE", help_heading = "Process")]
    pub label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub label_file: Vec<PathBuf>,
    /// OCI annotations
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Process")]
    pub annotation: Vec<String>,
    /// Signal that `stop` sends [default: the image's, TERM]
    #[arg(long, value_name = "SIGNAL", help_heading = "Process")]
    pub stop_signal: Option<String>,
    /// Seconds that `stop` waits before KILL [default: 10]
    #[arg(long, value_name = "SECONDS", help_heading = "Process")]
    pub stop_timeout: Option<u32>,
    /// no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "POLICY", help_heading = "Process")]
    pub restart: Option<String>,
    /// Run it below a first process that passes signals on and reaps
    #[arg(long, help_heading = "Process")]
    pub init: bool,
    /// Time zone: a name below /usr/share/zoneinfo, or local
    #[arg(long, value_name = "ZONE", help_heading = "Process")]
    pub tz: Option<String>,
    /// Write the number of the first process to a file
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub pidfile: Option<PathBuf>,
    /// Write the number of its monitor to a file
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub conmon_pidfile: Option<PathBuf>,
    /// Open files of the caller that its program gets, from number 3 on
    #[arg(long, value_name = "NUMBER", default_value_t = 0, help_heading = "Process")]
    pub preserve_fds: u16,
    /// Run it as systemd wants: true when the program is systemd or init, always, or false [default: true]
    #[arg(long, value_parser = ["true", "false", "always"], value_name = "MODE", help_heading = "Process")]
    pub systemd: Option<String>,
    /// Who tells the systemd of this host that it is ready: its program (container), dunlin at the start (conmon), or nobody (ignore)
    #[arg(long, default_value = "container", value_parser = ["container", "conmon", "ignore"], value_name = "WHO", help_heading = "Process")]
    pub sdnotify: String,

    /// Bind or named volume: [HOST|NAME:]TARGET[:OPTIONS]
    #[arg(short, long, value_name = "SPEC", help_heading = "Files")]
    pub volume: Vec<String>,
    /// type=bind|volume|tmpfs,source=…,target=…,…
    #[arg(long, value_name = "SPEC", help_heading = "Files")]
    pub mount: Vec<String>,
    /// Binds and volumes of another container, too: NAME[:ro]
    #[arg(long, value_name = "CONTAINER", help_heading = "Files")]
    pub volumes_from: Vec<String>,
    /// Memory file system: TARGET[:OPTIONS]
    #[arg(long, value_name = "SPEC", help_heading = "Files")]
    pub tmpfs: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", help_heading = "Files")]
    pub shm_size: Option<String>,
    /// Root file system read-only
    #[arg(long, help_heading = "Files")]
    pub read_only: bool,
    /// With --read-only: memory on /tmp, /run and /var/tmp [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Files")]
    pub read_only_tmpfs: Option<bool>,
    /// Device node of the host: HOST[:TARGET[:rwm]]
    #[arg(long, value_name = "SPEC", help_heading = "Files")]
    pub device: Vec<String>,

    #[command(flatten)]
    pub net: NetworkArgs,
    /// Publish all ports that the image says it serves, each at a free port of the host
    #[arg(short = 'P', long, help_heading = "Network")]
    pub publish_all: bool,
    /// Ports that it serves beside those that the image says: PORT[/udp]
    #[arg(long, value_name = "PORT", help_heading = "Network")]
    pub expose: Vec<String>,
    /// Become part of a pod
    #[arg(long, value_name = "POD", help_heading = "Network")]
    pub pod: Option<String>,

    #[command(flatten)]
    pub limits: LimitArgs,
    /// Weight at block devices under contention, 10 to 1000
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u16).range(10..=1000), help_heading = "Limits")]
    pub blkio_weight: Option<u16>,
    /// Limit of one process: NAME=SOFT[:HARD]
    #[arg(long, value_name = "SPEC", help_heading = "Limits")]
    pub ulimit: Vec<String>,
    /// Log bounds: max-size=SIZE, max-file=NUMBER
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Limits")]
    pub log_opt: Vec<String>,
    /// Only k8s-file, which is what is always kept
    #[arg(long, value_name = "NAME", help_heading = "Limits")]
    pub log_driver: Option<String>,

    /// Capabilities to add
    #[arg(long, value_name = "CAP", value_delimiter = ',', help_heading = "Security")]
    pub cap_add: Vec<String>,
    /// Capabilities to drop; all
    #[arg(long, value_name = "CAP", value_delimiter = ',', help_heading = "Security")]
    pub cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=FILE|unconfined
    #[arg(long, value_name = "OPTION", help_heading = "Security")]
    pub security_opt: Vec<String>,
    /// Kernel settings of its namespaces
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Security")]
    pub sysctl: Vec<String>,
    /// host or private: every container has one of its own, with the store's ids
    #[arg(long, value_name = "MODE", help_heading = "Security")]
    pub userns: Option<String>,
    /// private, as always: these namespaces are its own
    #[arg(long, value_name = "MODE", value_parser = ["private"], help_heading = "Security")]
    pub cgroupns: Option<String>,
    /// private, as always
    #[arg(long, value_name = "MODE", value_parser = ["private", "shareable"], help_heading = "Security")]
    pub ipc: Option<String>,
    /// private, as always
    #[arg(long, value_name = "MODE", value_parser = ["private"], help_heading = "Security")]
    pub pid: Option<String>,
    /// private, as always
    #[arg(long, value_name = "MODE", value_parser = ["private"], help_heading = "Security")]
    pub uts: Option<String>,
    /// Not offered: a container is never given the host
    #[arg(long, help_heading = "Security")]
    pub privileged: bool,

    /// Health check command, `none` for none; text for a shell or a JSON list
    #[arg(long, value_name = "COMMAND", help_heading = "Health")]
    pub health_cmd: Option<String>,
    /// Health check: GET PORT[/PATH] inside
    #[arg(
        long,
        value_name = "PORT/PATH",
        conflicts_with = "health_cmd",
        help_heading = "Health"
    )]
    pub health_http: Option<String>,
    /// Health check: connect to PORT inside
    #[arg(long, value_name = "PORT", conflicts_with_all = ["health_cmd", "health_http"], help_heading = "Health")]
    pub health_tcp: Option<u16>,
    /// Time between two probes [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub health_interval: Option<String>,
    /// Failures in a row that make it unhealthy [default: 3]
    #[arg(long, value_name = "NUMBER", help_heading = "Health")]
    pub health_retries: Option<u32>,
    /// A probe that takes longer has failed [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub health_timeout: Option<String>,
    /// Time after the start in which failures do not count [default: 0s]
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub health_start_period: Option<String>,
    /// No health check, also not the image's
    #[arg(long, help_heading = "Health")]
    pub no_healthcheck: bool,

    /// Image: [REGISTRY/]NAME[:TAG|@DIGEST], or an id
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Command and arguments instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Limits that can be changed later.
#[derive(Debug, Clone, Default, Args)]
pub struct LimitArgs {
    /// Memory
    #[arg(short, long, value_name = "SIZE", help_heading = "Limits")]
    pub memory: Option<String>,
    /// Memory above which the kernel slows it down
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub memory_reservation: Option<String>,
    /// Memory and swap together; -1 without end
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = "Limits")]
    pub memory_swap: Option<String>,
    /// Processors, such as 0.5
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    pub cpus: Option<String>,
    /// Microseconds per period, with --cpu-quota
    #[arg(long, value_name = "MICROSECONDS", help_heading = "Limits")]
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time per period
    #[arg(
        long,
        value_name = "MICROSECONDS",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    pub cpu_quota: Option<i64>,
    /// Weight under contention, 1024 is usual
    #[arg(short = 'c', long, value_name = "SHARES", help_heading = "Limits")]
    pub cpu_shares: Option<u64>,
    /// Weight under contention, 1 to 10000, 100 is usual
    #[arg(long, value_name = "WEIGHT", conflicts_with = "cpu_shares", help_heading = "Limits")]
    pub cpu_weight: Option<u32>,
    /// Processors it may use, such as 0-1,3
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    pub cpuset_cpus: Option<String>,
    /// Processes and threads; -1 or 0 without end
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, help_heading = "Limits")]
    pub pids_limit: Option<i64>,
    /// Bytes read per second: DEVICE:SIZE
    #[arg(long, value_name = "DEVICE:SIZE", help_heading = "Limits")]
    pub device_read_bps: Vec<String>,
    /// Bytes written per second
    #[arg(long, value_name = "DEVICE:SIZE", help_heading = "Limits")]
    pub device_write_bps: Vec<String>,
    /// Reads per second
    #[arg(long, value_name = "DEVICE:NUMBER", help_heading = "Limits")]
    pub device_read_iops: Vec<String>,
    /// Writes per second
    #[arg(long, value_name = "DEVICE:NUMBER", help_heading = "Limits")]
    pub device_write_iops: Vec<String>,
}

/// `update`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dunlin update --memory 128m web\n  dunlin update --cpus 0.5 --pids-limit 50 web\n\n\
                  What runs gets the new limits at once; what is not named stays."
)]
pub struct UpdateArgs {
    /// The container made last
    #[arg(short, long)]
    pub latest: bool,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: Option<String>,
}
