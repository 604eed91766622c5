//! The console, for any number of clients at once.

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use utoipa::IntoParams;

use super::upgrade::{Duplex, Stream, upgrade};
use super::{Answer, Context, Refusal};
use crate::{Hub, Vm};

/// The protocol after the upgrade: the console's bytes, in both directions.
const PROTOCOL: &str = "guesthouse-console";
/// How much is copied at once.
const PIECE: usize = 16 << 10;
const INPUT: usize = 1024;

/// The size of a client's terminal in characters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct SizeQuery {
    /// Lines.
    rows: u16,
    /// Characters in a line.
    columns: u16,
}

pub fn routes() -> Router<Context> {
    Router::new().route("/v1/console", get(console)).route("/v1/console/size", post(size))
}

/// Becomes a stream, `Upgrade: guesthouse-console`: what the guest says, beginning with the newest 64 KiB of what it has said,
/// and input for it. Input of all clients is mixed as it comes; where the guest takes none, it is dropped. A client that
/// does not keep up misses something.
#[utoipa::path(get, path = "/v1/console", responses((status = 101), (status = 426, body = Answer), (status = 503, body = Answer)))]
pub async fn console(State(context): State<Context>, request: Request) -> Result<Response, Refusal> {
    let vm = context.vm.clone();
    upgrade(&context, request, PROTOCOL, move |stream| async move { serve(&vm, stream).await })
}

/// Tells the guest the size of a client's terminal. Who tells it last is who is right. A serial port cannot tell any.
#[utoipa::path(post, path = "/v1/console/size", params(SizeQuery), responses((status = 204), (status = 400, body = Answer), (status = 409, body = Answer)))]
pub async fn size(
    State(context): State<Context>,
    query: Result<Query<SizeQuery>, QueryRejection>,
) -> Result<StatusCode, Refusal> {
    let Query(SizeQuery { rows, columns }) = query?;
    if context.vm.hub().resize(rows, columns) {
        return Ok(StatusCode::NO_CONTENT);
    }
    let fact =
        "this console has no size: run the machine with --console virtio, and without a terminal of its own";
    Err(Refusal::new(StatusCode::CONFLICT, fact))
}

async fn serve(vm: &Vm, stream: Stream) {
    let (reader, writer) = split(stream.io);
    tokio::select! {
        () = show(vm, writer) => {}
        () = take(vm.hub(), stream.early.to_vec(), reader) => {}
    }
}

/// From the guest to the client, until the machine ends or the client has left.
async fn show(vm: &Vm, mut to: WriteHalf<Box<dyn Duplex>>) {
    let hub = vm.hub();
    let (mut position, mut end) = hub.listen();
    loop {
        end.mark_unchanged();
        let piece = hub.read(position, PIECE);
        position = piece.next;
        if !piece.data.is_empty() {
            if to.write_all(&piece.data).await.is_err() {
                return;
            }
            continue;
        }
        tokio::select! {
            biased;
            _ = end.changed() => {}
            () = vm.finished() => return,
        }
    }
}

/// From the client to the guest, as fast as that takes it. A client that ends its half goes on listening.
async fn take(hub: &Hub, mut data: Vec<u8>, mut from: ReadHalf<Box<dyn Duplex>>) {
    let mut room = hub.room();
    loop {
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            room.mark_unchanged();
            let Some(taken) = hub.offer(rest) else { break };
            rest = rest.get(taken..).unwrap_or_default();
            if !rest.is_empty() && room.changed().await.is_err() {
                return;
            }
        }
        data.resize(INPUT, 0);
        match from.read(&mut data).await {
            Ok(0) => std::future::pending().await,
            Ok(count) => data.truncate(count),
            Err(_) => return,
        }
    }
}
