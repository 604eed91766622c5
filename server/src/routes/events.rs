//! What happens to the machine, as it happens.

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use utoipa::ToSchema;

use super::Context;
use crate::State as MachineState;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// `state` is what the machine is doing from now on.
    State,
    /// The guest was asked to shut down.
    PowerButton,
}

/// Something that happened to a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub time: u64,
    /// The machine.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// What.
    pub event: EventKind,
    /// What the machine was doing then.
    pub state: MachineState,
    /// Once it has exited: how.
    pub exit_status: Option<u8>,
}

pub fn routes() -> Router<Context> {
    Router::new().route("/v1/events", get(events))
}

/// What happens from now on, a JSON object in a line each; the first says what the machine is doing. It ends with the
/// machine. A client that is far behind misses some.
#[utoipa::path(get, path = "/v1/events", responses((status = 200, body = Event, content_type = "application/x-ndjson")))]
pub async fn events(State(context): State<Context>) -> impl IntoResponse {
    let (first, mut receiver) = context.vm.events();
    drop(context);
    let (sender, body) = super::upgrade::body();
    tokio::spawn(async move {
        let mut next = Some(first);
        while let Some(event) = next {
            let line = serde_json::to_string(&event).unwrap_or_default() + "\n";
            if !sender.send(line.into_bytes()).await || event.state == MachineState::Exited {
                return;
            }
            next = loop {
                tokio::select! {
                    event = receiver.recv() => match event {
                        Ok(event) => break Some(event),
                        Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => break None,
                    },
                    () = sender.closed() => return,
                }
            };
        }
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body)
}
