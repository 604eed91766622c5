//! What the machine is.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Context;
use crate::{Status, openapi};

/// A machine and its definition.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MachineInfo {
    /// What it is doing.
    #[serde(flatten)]
    pub status: Status,
    /// What it is: a MachineSpec, as in a machine's TOML file.
    #[schema(value_type = Object)]
    pub spec: ::machine::MachineSpec,
}

pub fn routes() -> Router<Context> {
    Router::new().route("/v1/machine", get(machine)).route("/v1/openapi.json", get(document))
}

/// What the machine is, and what it is doing.
#[utoipa::path(get, path = "/v1/machine", responses((status = 200, body = MachineInfo)))]
pub async fn machine(State(context): State<Context>) -> Json<MachineInfo> {
    let vm = &context.vm;
    Json(MachineInfo { status: vm.status(), spec: vm.spec().clone() })
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, body = Object)))]
pub async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], openapi::document())
}
