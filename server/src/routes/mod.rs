//! What a machine answers. A module for each subject: it has its handlers, the types they speak in, and `routes()`; a new
//! one is merged in [`router`] and named in `openapi.rs`. Streams that go both ways are upgrades ([`upgrade`]).

pub(crate) mod console;
pub(crate) mod engine;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod limits;
pub(crate) mod logs;
pub(crate) mod machine;
pub(crate) mod metrics;
pub(crate) mod power;
pub(crate) mod snapshot;
pub(crate) mod stats;
pub(crate) mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::Vm;
pub use events::{Event, EventKind};
pub use machine::MachineInfo;
pub use stats::Stats;

/// Longest body of a request.
const MAX_BODY: usize = 64 << 10;
/// How long an answer may take to begin, the rest of the request included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most streams at once that go both ways.
const MAX_STREAMS: usize = 64;

/// What every handler may use.
#[derive(Clone)]
pub(crate) struct Context {
    pub vm: Arc<Vm>,
    /// Places for streams.
    pub streams: Arc<Semaphore>,
}

impl Context {
    pub fn new(vm: Arc<Vm>) -> Self {
        Self { vm, streams: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }

    /// Waits until all streams have ended.
    pub async fn streams_end(&self) {
        let _ = self.streams.acquire_many(MAX_STREAMS as u32).await;
    }
}

/// All of them.
pub(crate) fn router(context: Context) -> Router {
    Router::new()
        .merge(machine::routes())
        .merge(power::routes())
        .merge(engine::routes())
        .merge(stats::routes())
        .merge(limits::routes())
        .merge(events::routes())
        .merge(exec::routes())
        .merge(snapshot::routes())
        .merge(console::routes())
        .merge(logs::routes())
        .merge(metrics::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(in_time))
        // Without limits that are for questions and short answers.
        .merge(files::routes())
        .with_state(context)
}

async fn unknown(uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is no {}: see /v1/openapi.json", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let text = format!("{} does not take {method}: see /v1/openapi.json", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::new(StatusCode::REQUEST_TIMEOUT, "it took too long: try again").into_response(),
    }
}

/// What is said instead of an answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Answer {
    /// Fact, object, remedy.
    pub error: String,
}

/// No answer, and why.
pub(crate) struct Refusal(StatusCode, String);

impl Refusal {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self(status, error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(Answer { error: self.1 })).into_response()
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<::machine::MachineError> for Refusal {
    fn from(error: ::machine::MachineError) -> Self {
        Self::new(StatusCode::CONFLICT, error.to_string())
    }
}
