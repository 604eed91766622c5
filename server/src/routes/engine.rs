//! Which engine runs the guest's code.

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::post;
use machine::EngineKind;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Answer, Context, Refusal, power};

/// Where to go.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EngineQuery {
    /// The engine, or `auto` for the best one of this host.
    #[param(value_type = String)]
    kind: EngineKind,
}

pub fn routes() -> Router<Context> {
    Router::new().route("/v1/engine", post(move_to))
}

/// Another engine runs the guest's code from now on; `/v1/machine` names it. If it refuses, the machine stays with its own.
#[utoipa::path(post, path = "/v1/engine", params(EngineQuery), responses((status = 204), (status = 400, body = Answer), (status = 409, body = Answer)))]
pub async fn move_to(
    State(context): State<Context>,
    query: Result<Query<EngineQuery>, QueryRejection>,
) -> Result<StatusCode, Refusal> {
    let Query(EngineQuery { kind }) = query?;
    power::change(context.vm, move |vm| vm.move_to(kind)).await
}
