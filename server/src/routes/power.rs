//! Pause, resume, stop, kill. Each may be asked for twice.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::post;
use machine::MachineError;
use serde::Deserialize;
use tokio::task::spawn_blocking;
use utoipa::IntoParams;

use super::{Answer, Context, Refusal};
use crate::Vm;

/// Longest that a guest is given to shut down, in seconds.
const MAX_TIMEOUT: u32 = 24 * 60 * 60;

/// How to stop.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct Stop {
    /// Seconds that the guest has to shut down before the machine is ended.
    timeout: u32,
}

impl Default for Stop {
    fn default() -> Self {
        Self { timeout: 10 }
    }
}

pub fn routes() -> Router<Context> {
    Router::new()
        .route("/v1/pause", post(pause))
        .route("/v1/resume", post(resume))
        .route("/v1/stop", post(stop))
        .route("/v1/kill", post(kill))
}

/// The guest and its time stand still.
#[utoipa::path(post, path = "/v1/pause", responses((status = 204), (status = 409, body = Answer)))]
pub async fn pause(State(context): State<Context>) -> Result<StatusCode, Refusal> {
    change(context.vm, Vm::pause).await
}

/// The guest goes on.
#[utoipa::path(post, path = "/v1/resume", responses((status = 204), (status = 409, body = Answer)))]
pub async fn resume(State(context): State<Context>) -> Result<StatusCode, Refusal> {
    change(context.vm, Vm::resume).await
}

/// The guest is asked to shut down; if it does not, the machine is ended. The answer comes at once.
#[utoipa::path(post, path = "/v1/stop", params(Stop), responses((status = 202), (status = 400, body = Answer)))]
pub async fn stop(
    State(context): State<Context>,
    query: Result<Query<Stop>, QueryRejection>,
) -> Result<StatusCode, Refusal> {
    let Query(Stop { timeout }) = query?;
    context.vm.shut_down();
    tokio::spawn(async move {
        let patience = Duration::from_secs(timeout.min(MAX_TIMEOUT).into());
        if tokio::time::timeout(patience, context.vm.finished()).await.is_err() {
            context.vm.kill();
        }
    });
    Ok(StatusCode::ACCEPTED)
}

/// The machine ends; the guest is not asked. The answer comes at once.
#[utoipa::path(post, path = "/v1/kill", responses((status = 202)))]
pub async fn kill(State(context): State<Context>) -> StatusCode {
    context.vm.kill();
    StatusCode::ACCEPTED
}

/// What may wait for a vCPU must not keep the server's thread.
pub async fn change(
    vm: Arc<Vm>,
    to: impl FnOnce(&Vm) -> Result<(), MachineError> + Send + 'static,
) -> Result<StatusCode, Refusal> {
    match spawn_blocking(move || to(&vm)).await {
        Ok(done) => done.map(|()| StatusCode::NO_CONTENT).map_err(Refusal::from),
        Err(e) => {
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}: this is a bug, report it")))
        }
    }
}
