//! What the machine may use of its host, and the memory that its guest is asked to give back.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use machine::{BalloonReport, DeviceName, Limits, Machine, MachineError, RateSpec, Size};
use serde::Deserialize;
use tokio::task::spawn_blocking;
use utoipa::IntoParams;

use super::{Answer, Context, Refusal};

/// How long the guest may take to say how it uses its memory.
const PATIENCE: Duration = Duration::from_secs(1);

/// CPU time. What is not given stays, and `none` takes a limit away.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub struct CpuQuery {
    /// CPUs' worth of time that the machine may use, such as 0.2.
    cpus: Option<String>,
    /// Its share beside others, 1 to 10000; others have 100.
    weight: Option<u32>,
}

/// The rate of a device, instead of the one that it has; none at all if nothing is given.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct RateQuery {
    /// Requests, or frames, in a second.
    ops: Option<u64>,
    /// Bytes in a second, such as 50M.
    #[param(value_type = Option<String>)]
    bytes: Option<Size>,
    /// Bytes that may go at once after a pause.
    #[param(value_type = Option<String>)]
    burst: Option<Size>,
}

/// The size of a balloon.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct BalloonQuery {
    /// Memory that the guest is asked to give up, such as 256M, or 0.
    size: String,
}

pub fn routes() -> Router<Context> {
    Router::new()
        .route("/v1/limits", get(limits).post(set_cpu))
        .route("/v1/limits/{device}", post(set_rate))
        .route("/v1/balloon", get(balloon).post(set_balloon))
}

/// The limits as they are.
#[utoipa::path(get, path = "/v1/limits", responses((status = 200, body = Object), (status = 409, body = Answer)))]
pub async fn limits(State(context): State<Context>) -> Result<Json<Limits>, Refusal> {
    with(context, |machine| Ok(machine.limits())).await.map(Json)
}

/// Limits the machine's CPU time.
#[utoipa::path(post, path = "/v1/limits", params(CpuQuery), responses((status = 204), (status = 400, body = Answer), (status = 409, body = Answer)))]
pub async fn set_cpu(
    State(context): State<Context>,
    query: Result<Query<CpuQuery>, QueryRejection>,
) -> Result<StatusCode, Refusal> {
    let Query(CpuQuery { cpus, weight }) = query?;
    let cpus =
        match cpus.as_deref() {
            None => None,
            Some("none") => Some(None),
            Some(text) => Some(Some(text.parse().map_err(|_| {
                wrong(format!("{text:?} is no number of cpus: give one such as 0.2, or none"))
            })?)),
        };
    with(context, move |machine| {
        let before = machine.limits();
        let limits = Limits { cpus: cpus.unwrap_or(before.cpus), weight: weight.or(before.weight), ..before };
        machine.set_limits(limits)
    })
    .await
    .map(|()| StatusCode::NO_CONTENT)
}

/// Limits the rate of a device: `disk0`, `net0.tx`, `net0.rx` and so on.
#[utoipa::path(post, path = "/v1/limits/{device}", params(("device" = String, Path), RateQuery), responses((status = 204), (status = 400, body = Answer), (status = 409, body = Answer)))]
pub async fn set_rate(
    State(context): State<Context>,
    Path(device): Path<String>,
    query: Result<Query<RateQuery>, QueryRejection>,
) -> Result<StatusCode, Refusal> {
    let Query(RateQuery { ops, bytes, burst }) = query?;
    let device: DeviceName = device.parse().map_err(wrong)?;
    with(context, move |machine| {
        let mut limits = machine.limits();
        limits.devices.insert(device, RateSpec { ops, bytes, burst });
        machine.set_limits(limits)
    })
    .await
    .map(|()| StatusCode::NO_CONTENT)
}

/// The balloon, and how the guest uses its memory, as it says.
#[utoipa::path(get, path = "/v1/balloon", responses((status = 200, body = Object), (status = 409, body = Answer)))]
pub async fn balloon(State(context): State<Context>) -> Result<Json<BalloonReport>, Refusal> {
    with(context, |machine| Ok(machine.balloon_report(PATIENCE))).await.map(Json)
}

/// Asks the guest to give up so much memory.
#[utoipa::path(post, path = "/v1/balloon", params(BalloonQuery), responses((status = 204), (status = 400, body = Answer), (status = 409, body = Answer)))]
pub async fn set_balloon(
    State(context): State<Context>,
    query: Result<Query<BalloonQuery>, QueryRejection>,
) -> Result<StatusCode, Refusal> {
    let Query(BalloonQuery { size }) = query?;
    let size = if size == "0" { Size::bytes(0) } else { size.parse().map_err(wrong)? };
    with(context, move |machine| machine.set_balloon(size)).await.map(|()| StatusCode::NO_CONTENT)
}

fn wrong(text: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, text)
}

/// Asks the machine something that may have to wait, which must not keep the server's thread.
async fn with<T: Send + 'static>(
    context: Context,
    ask: impl FnOnce(&Machine) -> Result<T, MachineError> + Send + 'static,
) -> Result<T, Refusal> {
    let machine: Option<Arc<Machine>> = context.vm.machine();
    let machine = machine
        .ok_or_else(|| Refusal::new(StatusCode::CONFLICT, "the machine is not running: start it first"))?;
    match spawn_blocking(move || ask(&machine)).await {
        Ok(answer) => answer.map_err(Refusal::from),
        Err(e) => {
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}: this is a bug, report it")))
        }
    }
}
