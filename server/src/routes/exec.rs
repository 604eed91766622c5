//! Programs in the guest, by its agent.

use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use jail::Kind;
use serde::Deserialize;
use tokio::sync::oneshot;
use utoipa::IntoParams;

use super::upgrade::upgrade_socket;
use super::{Answer, Context, Refusal};

/// The protocol after the upgrade: the frames of `agent::protocol`, one session.
const PROTOCOL: &str = "guesthouse-exec";
/// Longest wait for an agent, in seconds.
const MAX_WAIT: u32 = 60 * 60;

/// How to begin.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct Exec {
    /// Seconds to wait for an agent in a guest that is still starting.
    wait: u32,
}

impl Default for Exec {
    fn default() -> Self {
        Self { wait: 5 }
    }
}

pub fn routes() -> Router<Context> {
    Router::new().route("/v1/exec", get(exec))
}

/// Becomes a stream, `Upgrade: guesthouse-exec`: frames of one session with the guest's agent, from the client's start to
/// the program's exit (agent/src/protocol). A client that leaves before gets its program a SIGHUP.
#[utoipa::path(get, path = "/v1/exec", params(Exec), responses((status = 101), (status = 400, body = Answer), (status = 409, body = Answer), (status = 426, body = Answer), (status = 503, body = Answer)))]
pub async fn exec(
    State(context): State<Context>,
    query: Result<Query<Exec>, QueryRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    let Query(Exec { wait }) = query?;
    let patience = Duration::from_secs(wait.min(MAX_WAIT).into());
    let machine = context.vm.started().await;
    let machine =
        machine.ok_or_else(|| Refusal::new(StatusCode::CONFLICT, "it is not running: try again"))?;
    upgrade_socket(&context, request, PROTOCOL, move |socket, early| async move {
        let agent = machine.agent().clone();
        drop(machine);
        let (end, ended) = oneshot::channel();
        let serve = move || {
            if let Err(e) = agent::serve(&agent, socket, &early, patience) {
                tracing::debug!("a client of the agent: {e}");
            }
            drop(end);
        };
        // Streams wait for each other, so they are not the server's thread's business.
        match jail::spawn(Kind::Client, "exec", serve) {
            Ok(_) => drop(ended.await as Result<(), _>),
            Err(e) => tracing::warn!("the host refuses a thread: {e}"),
        }
    })
}
