//! Machines that run or did: listed, looked at, told what to do. Each is a folder and a socket (`server`).

mod args;
mod clone;
mod console;
mod cp;
pub mod detach;
mod events;
mod exec;
mod inspect;
mod limits;
mod logs;
mod power;
mod ps;
mod restart;
mod snapshot;
mod stats;
mod table;

use machine::snapshot::How;
use server::Registry;

pub use args::{LifeAction, LifeArguments};
pub use restart::{RestartPolicy, Restarts};

/// Does it; the exit status.
pub fn run(action: &LifeAction) -> anyhow::Result<u8> {
    let registry = Registry::of_user()?;
    match action {
        LifeAction::Ps { all, json, quiet } => ps::run(&registry, *all, *json, *quiet).map(|()| 0),
        LifeAction::Inspect { machine, toml } => inspect::run(&registry, machine, *toml).map(|()| 0),
        LifeAction::Pause { machines } => power::each(machines, |name| power::post(&registry, name, "pause")),
        LifeAction::Resume { machines } => {
            power::each(machines, |name| power::post(&registry, name, "resume"))
        }
        LifeAction::Engine { machine, engine } => {
            Ok(power::post(&registry, machine, &format!("engine?kind={engine}")).map(|()| 0)?)
        }
        LifeAction::Snapshot { machine, folder, stop, compress, live, json } => {
            let how = match (compress, live) {
                (true, _) => How::Compressed,
                (_, true) => How::Live,
                _ => How::Still,
            };
            snapshot::run(&registry, machine, folder, *stop, how, *json)
        }
        LifeAction::Clone(arguments) => clone::run(&registry, arguments).map(|()| 0),
        LifeAction::Stop { machines, timeout } => {
            power::each(machines, |name| power::stop(&registry, name, *timeout))
        }
        LifeAction::Kill { machines } => power::each(machines, |name| power::kill(&registry, name)),
        LifeAction::Rm { machines, force } => {
            power::each(machines, |name| power::remove(&registry, name, *force))
        }
        LifeAction::Exec(arguments) => exec::run(&registry, arguments),
        LifeAction::Cp(arguments) => cp::run(&registry, arguments),
        LifeAction::Limit { machine, cpu_cap, cpu_weight, devices } => {
            limits::limit(&registry, machine, cpu_cap.as_deref(), *cpu_weight, devices).map(|()| 0)
        }
        LifeAction::Balloon { machine, size, json } => {
            limits::balloon(&registry, machine, *size, *json).map(|()| 0)
        }
        LifeAction::Console { machine } => console::run(&registry, machine),
        LifeAction::Logs { machine, follow, json } => {
            logs::run(&registry, machine, *follow, *json).map(|()| 0)
        }
        LifeAction::Stats { machines, no_stream, json } => {
            stats::run(&registry, machines, *no_stream, *json).map(|()| 0)
        }
        LifeAction::Events { machines, json } => events::run(&registry, machines, *json).map(|()| 0),
    }
}
