//! What the machine uses.

use std::fs;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Context;
use crate::Vm;
use crate::registry::now;

/// What a machine uses at a moment; two of them give rates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Stats {
    /// The moment, in milliseconds since 1970.
    pub time: u64,
    /// CPU time of all threads of the machine's process so far, in milliseconds.
    pub cpu_time: u64,
    /// Guest RAM in bytes.
    pub memory: u64,
    /// Host memory that the process has in all, in bytes.
    pub resident: u64,
    /// Thereof guest RAM, which is what the guest has touched and not given back.
    pub guest_resident: u64,
    /// How often guest code was left so far, or reached a device.
    pub exits: u64,
}

impl Stats {
    /// The machine's, now.
    pub(crate) fn of(vm: &Vm) -> Self {
        let machine = vm.machine();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kib.unwrap_or(0).saturating_mul(1024)
        };
        Self {
            time: now(),
            cpu_time: machine::cpu_time().as_millis() as u64,
            memory: vm.spec().memory.get(),
            resident: bytes("VmRSS:"),
            guest_resident: machine.as_ref().map_or(0, |machine| machine.pc().ram.resident()),
            exits: machine.map_or(0, |machine| machine.exits()),
        }
    }
}

pub fn routes() -> Router<Context> {
    Router::new().route("/v1/stats", get(stats))
}

/// What the machine uses now.
#[utoipa::path(get, path = "/v1/stats", responses((status = 200, body = Stats)))]
pub async fn stats(State(context): State<Context>) -> Json<Stats> {
    Json(Stats::of(&context.vm))
}
