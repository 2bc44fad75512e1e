//! Arguments → command → result → rendering.

mod args;
mod attach;
mod compose;
mod failure;
mod human;
mod inspect;
mod keys;
mod lazy;
mod listing;
#[cfg(feature = "operator")]
mod man;
mod owner;
mod progress;
mod ps;
#[cfg(feature = "operator")]
mod quadlet;
pub mod runtime;
mod table;
mod template;
mod time;
mod verbs;
mod yaml;

use crate::disk::layout::Layout;
use crate::engine::Engine;
use crate::log;
use args::{Cli, Global, Parsed, Verb};
use failure::Failure;
use std::ffi::OsString;

/// Runs the command line (without the program's name); returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match args::parse(arguments) {
        Parsed::Run(cli) => cli,
        Parsed::Show(text) => return verbs::print(&text).map_or_else(|failure| failure.report(), |()| 0),
        Parsed::Wrong(text) => {
            failure::say(&text);
            return failure::OWN;
        }
    };
    match execute(*cli) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn execute(cli: Cli) -> Result<u8, Failure> {
    let Cli { global, verb } = cli;
    if let Some(level) = &global.log_level {
        log::set_level(level.parse().map_err(Failure::new)?);
    }
    // What is opened as the caller, before dunlin becomes the store's owner.
    let prepared = match &verb {
        Verb::Version(args) => return verbs::version(args),
        Verb::CpLocal(args) => return verbs::cp_local(args),
        Verb::Completion(args) => return verbs::completion(args),
        Verb::AppImport(args) => return verbs::app_import(args, verbs::given(&verb)?),
        Verb::Copy(args) => return verbs::copy(&owner::settings_alone(&global)?, args),
        Verb::ImageDelete(args) => return verbs::delete(&owner::settings_alone(&global)?, args),
        Verb::Fleet(args) => return verbs::fleet(global.config.as_deref(), args),
        Verb::AgentEnroll(args) => return verbs::agent_enroll(&global, args),
        Verb::ContainerCleanup(args) => return cleanup(&global, &args.id),
        Verb::Run(args) => Some(verbs::prepare(&args.create, Some(!args.detach), &global)?),
        Verb::Create(args) => Some(verbs::prepare(args, None, &global)?),
        _ => None,
    };
    let env = match &verb {
        Verb::Exec(args) => compose::environment(&args.env_file, &args.env)?,
        _ => Vec::new(),
    };
    let given = verbs::given(&verb)?;
    let sides = match &verb {
        Verb::Cp(args) => Some(verbs::prepare_cp(args)?),
        _ => None,
    };
    let bundle = match &verb {
        Verb::Bundle(args) => Some(verbs::bundle_output(args)?),
        _ => None,
    };
    let place = owner::settle(&global, starts(&verb))?;
    if let Verb::Doctor(args) = &verb {
        return verbs::doctor(place, args);
    }
    if let (None, Some(level)) = (&global.log_level, &place.settings.log.level) {
        log::set_level(level.parse().map_err(Failure::new)?);
    }
    if let (Verb::Agent(_), None, None) = (&verb, &global.log_level, &place.settings.log.level) {
        log::set_level(log::Level::Info);
    }
    let engine = Engine::open_with(&place.layout, &place.settings, place.starter)?;
    if let Verb::Agent(args) = &verb {
        return verbs::agent(engine, args);
    }
    if let Verb::Unshare(args) = verb {
        return verbs::unshare(&engine, global.config.as_deref(), &args);
    }
    if let (Verb::Bundle(args), Some(file)) = (&verb, bundle) {
        return verbs::bundle(&engine, &global, args, file);
    }
    if let Some(sides) = sides {
        return verbs::cp(&engine, sides);
    }
    match (verb, prepared) {
        (Verb::Run(args), Some(prepared)) => verbs::run(&engine, &args, prepared),
        (Verb::Create(_), Some(prepared)) => verbs::create(&engine, prepared),
        (verb, _) => other(&engine, &verb, env, given),
    }
}

/// Whether a verb needs a keeper.
fn starts(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::Run(_)
            | Verb::Create(_)
            | Verb::Start(_)
            | Verb::Restart(_)
            | Verb::Rm(_)
            | Verb::Pull(_)
            | Verb::Push(_)
            | Verb::Import(_)
            | Verb::Commit(_)
            | Verb::Diff(_)
            | Verb::Save(_)
            | Verb::Load(_)
            | Verb::Rmi(_)
            | Verb::ImagePrune(_)
            | Verb::Info(_)
            | Verb::SystemCheck(_)
            | Verb::SystemPrune(_)
            | Verb::Agent(_)
            | Verb::Unshare(_)
            | Verb::Cp(_)
            | Verb::Doctor(_)
            | Verb::Bundle(_)
            | Verb::Export(_)
            | Verb::ContainerPrune(_)
            | Verb::VolumeRm(_)
            | Verb::VolumePrune(_)
            | Verb::PodCreate(_)
            | Verb::PodStart(_)
            | Verb::PodRm(_)
    )
}

fn other(engine: &Engine, verb: &Verb, env: Vec<String>, given: verbs::Given) -> Result<u8, Failure> {
    match verb {
        Verb::Start(args) => verbs::start(engine, args),
        Verb::Stop(args) => verbs::stop(engine, args),
        Verb::Kill(args) => verbs::kill(engine, args),
        Verb::Restart(args) => verbs::restart(engine, args),
        Verb::Pause(args) => verbs::pause(engine, args),
        Verb::Unpause(args) => verbs::unpause(engine, args),
        Verb::Rm(args) => verbs::rm(engine, args),
        Verb::Ps(args) => verbs::ps(engine, args),
        Verb::Logs(args) => verbs::logs(engine, args),
        Verb::Exec(args) => verbs::exec(engine, args, env),
        Verb::Attach(args) => verbs::attach(engine, args),
        Verb::Export(args) => verbs::export(engine, args, given),
        Verb::Update(args) => verbs::update(engine, args),
        Verb::Events(args) => verbs::events(engine, args),
        Verb::HealthcheckRun(args) => verbs::healthcheck_run(engine, args),
        Verb::ContainerExists(args) => verbs::container_exists(engine, args),
        Verb::ContainerPrune(args) => verbs::container_prune(engine, args),
        Verb::VolumeCreate(args) => verbs::volume::create(engine, args),
        Verb::VolumeLs(args) => verbs::volume::ls(engine, args),
        Verb::VolumeInspect(args) => verbs::volume::inspect(engine, args),
        Verb::VolumeRm(args) => verbs::volume::rm(engine, args),
        Verb::VolumePrune(args) => verbs::volume::prune(engine, args),
        Verb::VolumeExists(args) => verbs::volume::exists(engine, args),
        Verb::Inspect(args) => verbs::inspect(engine, args),
        Verb::Top(args) => verbs::top(engine, args),
        Verb::Stats(args) => verbs::stats(engine, args),
        Verb::Port(args) => verbs::port(engine, args),
        Verb::Wait(args) => verbs::wait(engine, args),
        Verb::Rename(args) => verbs::rename(engine, args),
        Verb::Pull(args) => verbs::pull(engine, args, given),
        Verb::Push(args) => verbs::push(engine, args, given),
        Verb::Import(args) => verbs::import(engine, args, given),
        Verb::Commit(args) => verbs::commit(engine, args),
        Verb::Save(args) => verbs::save(engine, args, given),
        Verb::Load(args) => verbs::load(engine, args, given),
        Verb::Images(args) => verbs::images(engine, args),
        Verb::Rmi(args) => verbs::rmi(engine, args),
        Verb::Tag(args) => verbs::tag(engine, args),
        Verb::Untag(args) => verbs::untag(engine, args),
        Verb::History(args) => verbs::history(engine, args),
        Verb::ImageExists(args) => verbs::exists(engine, args),
        Verb::ImageTree(args) => verbs::tree(engine, args),
        Verb::Diff(args) => verbs::diff(engine, args),
        Verb::ImageMount(args) => verbs::image_mount(engine, args),
        Verb::ImageUnmount(args) => verbs::image_unmount(engine, args),
        Verb::ImagePrune(args) => verbs::image_prune(engine, args),
        Verb::ListTags(args) => verbs::list_tags(engine, args),
        Verb::Search(args) => verbs::search(engine, args),
        Verb::Login(args) => verbs::login(engine, args),
        Verb::Logout(args) => verbs::logout(engine, args),
        Verb::AgentUpdate(args) => verbs::agent_update(engine, args, given),
        Verb::AgentWatch(args) => verbs::agent_watch(engine, args),
        Verb::AppLs(args) => verbs::app::ls(engine, args),
        Verb::AppApply(args) => verbs::app::apply(engine, args, given),
        Verb::AppRm(args) => verbs::app::rm(engine, args),
        Verb::AppRollback(args) => verbs::app::rollback(engine, args),
        Verb::AppRetry(args) => verbs::app::retry(engine, args),
        Verb::AppUnlock(args) => verbs::app::unlock(engine, args),
        Verb::AutoUpdate(args) => verbs::app::auto_update(engine, args),
        Verb::AppHistory(args) => verbs::app::history(engine, args),
        Verb::ResetTrust(args) => verbs::app::reset_trust(engine, args),
        Verb::Explain(args) => verbs::app::explain(engine, args),
        Verb::GenerateSystemd(args) => verbs::generate_systemd(engine, args),
        Verb::NetworkLs(args) => verbs::network_ls(args),
        Verb::PodCreate(args) => verbs::pod_create(engine, args),
        Verb::PodPs(args) => verbs::pod_ps(engine, args),
        Verb::PodInspect(args) => verbs::pod_inspect(engine, args),
        Verb::PodStart(args) => verbs::pod_start(engine, args),
        Verb::PodStop(args) => verbs::pod_stop(engine, args),
        Verb::PodRm(args) => verbs::pod_rm(engine, args),
        Verb::Info(args) => verbs::info(engine, args),
        Verb::SystemCheck(args) => verbs::system_check(engine, args),
        Verb::SystemDf(args) => verbs::system_df(engine, args),
        Verb::SystemPrune(args) => verbs::system_prune(engine, args),
        // Carried out before a store was opened.
        Verb::Run(_)
        | Verb::Create(_)
        | Verb::Version(_)
        | Verb::CpLocal(_)
        | Verb::ContainerCleanup(_)
        | Verb::Agent(_) => Ok(0),
        Verb::Doctor(_)
        | Verb::Bundle(_)
        | Verb::Completion(_)
        | Verb::AppImport(_)
        | Verb::Copy(_)
        | Verb::Cp(_)
        | Verb::ImageDelete(_)
        | Verb::Unshare(_)
        | Verb::Fleet(_)
        | Verb::AgentEnroll(_) => Ok(0),
    }
}

/// The monitor's last act for a container with `--rm`: it runs in the store's user namespace, so that nobody needs to be
/// become and the folders are given.
fn cleanup(global: &Global, id: &str) -> Result<u8, Failure> {
    let (Some(root), Some(runroot)) = (&global.root, &global.runroot) else {
        return Err(Failure::new("container-cleanup needs --root and --runroot"));
    };
    let id = id
        .parse()
        .map_err(|error: crate::types::ids::IdError| Failure::new(error.to_string()))?;
    // Whoever ran the container waits for the sockets that the monitor has left us.
    let gone = || drop(crate::sys::process::close_all_but(3, Vec::new()));
    crate::engine::remove::cleanup(&Layout::new(root, runroot), &id, &gone)?;
    Ok(0)
}
