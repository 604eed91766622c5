//! The console, for any number of clients at once.

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::upgrade::{Duplex, Stream, upgrade};
use super::{Answer, Context, Refusal};
use crate::{Hub, Vm};

/// The protocol after the upgrade: the console's bytes, in both directions.
const PROTOCOL: &str = "guesthouse-console";
/// How much is copied at once.
const PIECE: usize = 16 << 10;
const INPUT: usize = 1024;

pub fn routes() -> Router<Context> {
    Router::new().route("/v1/console", get(console))
}

/// Becomes a stream, `Upgrade: guesthouse-console`: what the guest says, beginning with the newest 64 KiB of what it has said,
/// and input for it. Input of all clients is mixed as it comes; where the guest takes none, it is dropped. A client that
/// does not keep up misses something.
#[utoipa::path(get, path = "/v1/console", responses((status = 101), (status = 426, body = Answer), (status = 503, body = Answer)))]
pub async fn console(State(context): State<Context>, request: Request) -> Result<Response, Refusal> {
    let vm = context.vm.clone();
    upgrade(&context, request, PROTOCOL, move |stream| async move { serve(&vm, stream).await })
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
