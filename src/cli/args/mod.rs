//! Arguments as typed: one struct per verb, podman's names and letters.

mod app;
mod container;
mod create;
#[cfg_attr(not(feature = "operator"), allow(dead_code))]
mod fleet;
mod image;
mod network;
mod parse;
mod registry;
mod system;
mod technician;
mod transfer;
mod volume;

pub use app::{
    AgentEnrollArgs, AgentUpdateArgs, AgentWatchArgs, AppApplyArgs, AppLsArgs, AppNamesArgs, AppViewArgs,
    AutoUpdateArgs, FollowArgs, ResetTrustArgs,
};
pub use container::{
    AttachArgs, CleanupArgs, ContainerPruneArgs, ExecArgs, HealthcheckRunArgs, InspectArgs, KillArgs, LogsArgs,
    PauseArgs, Pick, PortArgs, PsArgs, RenameArgs, RestartArgs, RmArgs, StartArgs, StatsArgs, StopArgs, TopArgs,
    WaitArgs,
};
pub use create::{CreateArgs, LimitArgs, NetworkArgs, RunArgs, UpdateArgs};
pub use fleet::FleetArgs;
pub use image::{
    DiffArgs, ExistsArgs, FormatArgs, HistoryArgs, ImageMountArgs, ImagePruneArgs, ImageUnmountArgs, ImagesArgs,
    PlatformArgs, PullArgs, RegistryArgs, RmiArgs, ShowArgs, TagArgs, TreeArgs, UntagArgs,
};
pub use network::{ListArgs, NetworkLsArgs, PodCreateArgs, PodInspectArgs, PodNamesArgs, PodPsArgs, PodRmArgs};
#[cfg(feature = "operator")]
pub use parse::commands;
pub use parse::{Parsed, parse};
pub use registry::{ListTagsArgs, LoginArgs, LogoutArgs, SearchArgs};
pub use system::{SystemCheckArgs, SystemDfArgs, SystemPruneArgs, UnshareArgs};
pub use technician::{AppImportArgs, BundleArgs, CompletionArgs, DoctorArgs, EventsArgs, GenerateSystemdArgs};
pub use transfer::{
    CommitArgs, CopyArgs, CpArgs, CpLocalArgs, DeleteArgs, ExportArgs, ImportArgs, LoadArgs, PushArgs, SaveArgs,
};

pub use volume::{VolumeCreateArgs, VolumeInspectArgs, VolumeLsArgs, VolumePruneArgs, VolumeRmArgs};

use clap::{Args, Parser};
use std::path::PathBuf;

use crate::cli::lazy::verbs;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "dunlin",
    version,
    about = "Pull, run and look after containers on this device",
    disable_help_subcommand = true,
    max_term_width = 110,
    after_help = "Examples:\n  dunlin run -it --rm registry.example/alpine sh\n  dunlin ps -a\n  dunlin logs -f web\n\n\
                  `dunlin VERB --help` shows the options and examples of a verb."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Directory of images and containers
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Directory of the state that a reboot clears
    #[arg(long, global = true, value_name = "DIR")]
    pub runroot: Option<PathBuf>,
    /// Settings file instead of /etc/dunlin/agent.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Log messages at or above: error, warn, info, debug, trace
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// OCI runtime to use instead of the built-in one
    #[arg(long, global = true, value_name = "PATH")]
    pub runtime: Option<PathBuf>,
}

verbs! {
    /// What to do.
    pub enum Verb {
        /// Run a command in a new container
        Run(Box<RunArgs>) = "run",
        /// Create a container without starting it
        Create(Box<CreateArgs>) = "create",
        /// Start containers
        Start(StartArgs) = "start",
        /// Stop containers: the stop signal, then KILL after a time
        Stop(StopArgs) = "stop",
        /// Send a signal to containers
        Kill(KillArgs) = "kill",
        /// Stop and start containers
        Restart(RestartArgs) = "restart",
        /// Freeze all processes of containers
        Pause(PauseArgs) = "pause",
        /// Let paused containers go on
        Unpause(PauseArgs) = "unpause",
        /// Remove containers
        Rm(RmArgs) = "rm",
        /// List containers
        Ps(PsArgs) = "ps" => |verb| verb.visible_alias("list").alias("ls"),
        /// Show what containers wrote
        Logs(LogsArgs) = "logs",
        /// Run a command in a running container
        Exec(ExecArgs) = "exec",
        /// Give this terminal to a running container
        Attach(AttachArgs) = "attach",
        /// Copy files into a container or out of one
        Cp(CpArgs) = "cp",
        /// The caller's side of cp
        CpLocal(CpLocalArgs) = "cp-local" => |verb| verb.hide(true),
        /// Write a container's files as an archive
        Export(ExportArgs) = "export",
        /// Change the limits of containers
        Update(UpdateArgs) = "update",
        /// Show what happens
        Events(EventsArgs) = "events",
        /// Check the health of a container now
        HealthcheckRun(HealthcheckRunArgs) = "healthcheck-run" => |verb| verb.override_usage("dunlin healthcheck run [OPTIONS] [CONTAINER]"),
        /// Say by the exit code whether a container is here
        ContainerExists(ExistsArgs) = "container-exists" => |verb| verb.hide(true).override_usage("dunlin container exists CONTAINER"),
        /// Remove containers that do not run
        ContainerPrune(ContainerPruneArgs) = "container-prune" => |verb| verb.hide(true).override_usage("dunlin container prune [OPTIONS]"),
        /// Make a volume
        VolumeCreate(VolumeCreateArgs) = "volume-create" => |verb| verb.override_usage("dunlin volume create [OPTIONS] [NAME]"),
        /// List volumes
        VolumeLs(VolumeLsArgs) = "volume-ls" => |verb| verb.override_usage("dunlin volume ls [OPTIONS]"),
        /// Show everything about volumes
        VolumeInspect(VolumeInspectArgs) = "volume-inspect" => |verb| verb.override_usage("dunlin volume inspect [OPTIONS] VOLUME..."),
        /// Remove volumes
        VolumeRm(VolumeRmArgs) = "volume-rm" => |verb| verb.override_usage("dunlin volume rm [OPTIONS] VOLUME..."),
        /// Remove volumes that nothing uses
        VolumePrune(VolumePruneArgs) = "volume-prune" => |verb| verb.override_usage("dunlin volume prune [OPTIONS]"),
        /// Say by the exit code whether a volume is here
        VolumeExists(ExistsArgs) = "volume-exists" => |verb| verb.hide(true).override_usage("dunlin volume exists VOLUME"),
        /// Show everything about containers or images
        Inspect(InspectArgs) = "inspect",
        /// Show the processes of a container
        Top(TopArgs) = "top",
        /// Show what containers use
        Stats(StatsArgs) = "stats",
        /// Show the published ports of a container
        Port(PortArgs) = "port",
        /// Wait until containers stop and print their exit codes
        Wait(WaitArgs) = "wait",
        /// Give a container another name
        Rename(RenameArgs) = "rename",
        /// Fetch images from a registry
        Pull(PullArgs) = "pull",
        /// Send an image to a registry
        Push(PushArgs) = "push",
        /// Make an image of an archive of files
        Import(ImportArgs) = "import",
        /// Make an image of what a container has now
        Commit(CommitArgs) = "commit",
        /// Copy an image between registries, archives and directories
        Copy(CopyArgs) = "copy",
        /// Remove an image from its registry
        ImageDelete(DeleteArgs) = "image-delete" => |verb| verb.hide(true).override_usage("dunlin image delete [OPTIONS] docker://NAME"),
        /// Show what an image or a container changed
        Diff(DiffArgs) = "diff",
        /// Write images to an archive or a directory
        Save(SaveArgs) = "save",
        /// Take images from an archive or a directory
        Load(LoadArgs) = "load",
        /// List images
        Images(ImagesArgs) = "images",
        /// Remove images
        Rmi(RmiArgs) = "rmi",
        /// Give an image more names
        Tag(TagArgs) = "tag",
        /// Take names away from an image
        Untag(UntagArgs) = "untag",
        /// Show how an image was made
        History(HistoryArgs) = "history",
        /// Say by the exit code whether an image is here
        ImageExists(ExistsArgs) = "image-exists" => |verb| verb.hide(true).override_usage("dunlin image exists IMAGE"),
        /// Show the layers of an image
        ImageTree(TreeArgs) = "image-tree" => |verb| verb.hide(true).override_usage("dunlin image tree [OPTIONS] IMAGE"),
        /// Mount images read-only to look at them
        ImageMount(ImageMountArgs) = "image-mount" => |verb| verb.hide(true).override_usage("dunlin image mount [OPTIONS] [IMAGE]..."),
        /// Unmount images
        ImageUnmount(ImageUnmountArgs) = "image-unmount" => |verb| verb.hide(true).override_usage("dunlin image unmount [OPTIONS] [IMAGE]..."),
        /// Remove images that nothing uses
        ImagePrune(ImagePruneArgs) = "image-prune" => |verb| verb.hide(true).override_usage("dunlin image prune [OPTIONS]"),
        /// List the tags of a repository in its registry
        ListTags(ListTagsArgs) = "list-tags",
        /// Look for images in a registry
        Search(SearchArgs) = "search",
        /// Log in to a registry
        Login(LoginArgs) = "login",
        /// Forget the password for a registry
        Logout(LogoutArgs) = "logout",
        /// List the networks that containers may have
        NetworkLs(NetworkLsArgs) = "network-ls" => |verb| verb.hide(true).override_usage("dunlin network ls [OPTIONS]"),
        /// Make a pod: containers that share a network
        PodCreate(PodCreateArgs) = "pod-create" => |verb| verb.override_usage("dunlin pod create [OPTIONS]"),
        /// List pods
        PodPs(PodPsArgs) = "pod-ps" => |verb| verb.override_usage("dunlin pod ps [OPTIONS]"),
        /// Show everything about a pod
        PodInspect(PodInspectArgs) = "pod-inspect" => |verb| verb.hide(true).override_usage("dunlin pod inspect [OPTIONS] POD"),
        /// Start pods with their containers
        PodStart(PodNamesArgs) = "pod-start" => |verb| verb.hide(true).override_usage("dunlin pod start [OPTIONS] POD..."),
        /// Stop pods with their containers
        PodStop(PodNamesArgs) = "pod-stop" => |verb| verb.hide(true).override_usage("dunlin pod stop [OPTIONS] POD..."),
        /// Remove pods with their containers
        PodRm(PodRmArgs) = "pod-rm" => |verb| verb.hide(true).override_usage("dunlin pod rm [OPTIONS] POD..."),
        /// Show the host, the store and what is enforced
        Info(FormatArgs) = "info",
        /// Check that the store is as it was written
        SystemCheck(SystemCheckArgs) = "system-check" => |verb| verb.override_usage("dunlin system check [OPTIONS]"),
        /// Show what images, containers and volumes take on the disk
        SystemDf(SystemDfArgs) = "system-df" => |verb| verb.override_usage("dunlin system df [OPTIONS]"),
        /// Remove containers, images and volumes that nothing uses
        SystemPrune(SystemPruneArgs) = "system-prune" => |verb| verb.override_usage("dunlin system prune [OPTIONS]"),
        /// Run a command as root of the store's user namespace
        Unshare(UnshareArgs) = "unshare",
        /// Check this host against what dunlin and the board need
        Doctor(DoctorArgs) = "doctor",
        /// Pack what support needs to know, without secrets
        Bundle(BundleArgs) = "bundle",
        /// Print a script that completes words in a shell
        Completion(CompletionArgs) = "completion",
        /// Print a unit of systemd that runs a container
        GenerateSystemd(GenerateSystemdArgs) = "generate-systemd" => |verb| verb.override_usage("dunlin generate systemd [OPTIONS] CONTAINER"),
        /// Show the version
        Version(FormatArgs) = "version",
        /// Run the daemon: takes desired states over MQTT and from /etc/dunlin/apps, keeps the device at them
        Agent(AgentArgs) = "agent",
        /// Update the agent itself, with the way back
        AgentUpdate(AgentUpdateArgs) = "agent-update" => |verb| verb.override_usage("dunlin agent update [OPTIONS] FILE|docker://NAME"),
        /// Make this device's settings and keys from one document
        AgentEnroll(AgentEnrollArgs) = "agent-enroll" => |verb| verb.override_usage("dunlin agent enroll [OPTIONS] FILE|-|dunlin:TEXT"),
        /// Watch over an agent on trial
        AgentWatch(AgentWatchArgs) = "agent-watch" => |verb| verb.hide(true),
        /// List the apps that the agent manages
        AppLs(AppLsArgs) = "app-ls" => |verb| verb.override_usage("dunlin app ls [OPTIONS]"),
        /// Bring this device's own apps to what their documents say
        AppApply(AppApplyArgs) = "app-apply" => |verb| verb.override_usage("dunlin app apply [OPTIONS] FILE..."),
        /// Make app documents of Quadlet's .container files
        AppImport(AppImportArgs) = "app-import" => |verb| verb.override_usage("dunlin app import [OPTIONS] FILE..."),
        /// Take apps away that were applied on this device
        AppRm(AppNamesArgs) = "app-rm" => |verb| verb.override_usage("dunlin app rm [OPTIONS] APP..."),
        /// Leave an app's version for the one before
        AppRollback(AppNamesArgs) = "app-rollback" => |verb| verb.override_usage("dunlin app rollback [OPTIONS] APP"),
        /// Try versions of apps again that failed
        AppRetry(AppNamesArgs) = "app-retry" => |verb| verb.override_usage("dunlin app retry [OPTIONS] APP..."),
        /// Let an update go on that an app holds back
        AppUnlock(AppNamesArgs) = "app-unlock" => |verb| verb.override_usage("dunlin app unlock APP..."),
        /// Update apps whose tag has moved
        AutoUpdate(AutoUpdateArgs) = "auto-update",
        /// Show the last updates and how they ended
        AppHistory(AppViewArgs) = "app-history" => |verb| verb.override_usage("dunlin app history [OPTIONS] [APP]"),
        /// Forget which documents were accepted over MQTT
        ResetTrust(ResetTrustArgs) = "app-reset-trust" => |verb| verb.override_usage("dunlin app reset-trust [OPTIONS]"),
        /// Command a fleet of devices over MQTT
        Fleet(FleetArgs) = "fleet",
        /// Show what is wanted, what runs, and what stands between
        Explain(AppViewArgs) = "explain",
        /// Clean up after a container that ended
        ContainerCleanup(CleanupArgs) = "container-cleanup" => |verb| verb.hide(true),
    }
}

/// Of `agent`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dunlin agent\n  dunlin --config ./agent.toml --log-level debug agent")]
pub struct AgentArgs {
    /// The slot that this program runs from
    #[arg(long, hide = true)]
    pub slot: Option<String>,
    /// The program that is started when another version comes
    #[arg(long, hide = true)]
    pub base: Option<PathBuf>,
}
