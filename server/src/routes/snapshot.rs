//! The machine as files.

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use jail::Kind;
use machine::snapshot::How;
use serde::Deserialize;
use tokio::sync::oneshot;
use utoipa::IntoParams;

use super::upgrade::upgrade_socket;
use super::{Answer, Context, Refusal};
use crate::snapshot::{self, PROTOCOL, Wish};

/// How to take it.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct Take {
    /// The machine ends when all is written, so that its disks stay as they are.
    stop: bool,
    /// RAM is compressed.
    compress: bool,
    /// The guest goes on while most of RAM is written.
    live: bool,
    /// It is for copies on this host, with which the machine shares the RAM that neither writes.
    share: bool,
}

pub fn routes() -> Router<Context> {
    Router::new().route("/v1/snapshot", get(take))
}

/// Becomes a stream, `Upgrade: guesthouse-snapshot`: the machine says in a line of JSON which disks' changes it has to keep, the
/// client sends a byte and, as SCM_RIGHTS, files for state, memory and those disks, and the machine says in another line what
/// has become of it. With `stop` the guest stands still then, and the machine ends when the client sends another byte, or goes on when
/// it has left. For copies, no file for memory is sent: files with RAM come with a byte behind that line.
#[utoipa::path(get, path = "/v1/snapshot", params(Take), responses((status = 101), (status = 400, body = Answer), (status = 409, body = Answer), (status = 426, body = Answer), (status = 503, body = Answer)))]
pub async fn take(
    State(context): State<Context>,
    query: Result<Query<Take>, QueryRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    let query = query?.0;
    let wish = match query {
        Take { compress: true, live: true, .. } => {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "what is live is not compressed: ask for one of them",
            ));
        }
        Take { share: true, .. } => Wish::Copy,
        Take { stop, compress: true, .. } => Wish::Snapshot { stop, how: How::Compressed },
        Take { stop, live: true, .. } => Wish::Snapshot { stop, how: How::Live },
        Take { stop, .. } => Wish::Snapshot { stop, how: How::Still },
    };
    let machine = context.vm.machine();
    let machine =
        machine.ok_or_else(|| Refusal::new(StatusCode::CONFLICT, "it is not running: try again"))?;
    upgrade_socket(&context, request, PROTOCOL, move |socket, _| async move {
        let (end, ended) = oneshot::channel();
        let serve = move || {
            if let Err(e) = snapshot::serve(&machine, &socket, wish) {
                tracing::debug!("a client that wants a snapshot: {e}");
            }
            drop((end, machine));
        };
        match jail::spawn(Kind::Api, "snapshot", serve) {
            Ok(_) => drop(ended.await as Result<(), _>),
            Err(e) => tracing::warn!("the host refuses a thread: {e}"),
        }
    })
}
