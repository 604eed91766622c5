//! What the console said.

use std::io::Read;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Answer, Context, Refusal};

/// How much is read at once.
const PIECE: usize = 16 << 10;

/// Which part of it.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct Logs {
    /// Also what it says from now on, until the machine ends.
    follow: bool,
}

pub fn routes() -> Router<Context> {
    Router::new().route("/v1/logs", get(logs))
}

/// What the console said, the newest mebibyte or two, as it came from the guest.
#[utoipa::path(
    get, path = "/v1/logs", params(Logs),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = 400, body = Answer))
)]
pub async fn logs(
    State(context): State<Context>,
    query: Result<Query<Logs>, QueryRejection>,
) -> Result<impl IntoResponse, Refusal> {
    let Query(Logs { follow }) = query?;
    let (mut files, mut position, mut end) = context.vm.hub().listen_from_log();
    let (sender, body) = super::upgrade::body();
    tokio::spawn(async move {
        let mut piece = vec![0; PIECE];
        while let Ok(count @ 1..) = files.read(&mut piece) {
            if !sender.send(piece.get(..count).unwrap_or_default().to_vec()).await {
                return;
            }
        }
        if !follow {
            return;
        }
        loop {
            end.mark_unchanged();
            let piece = context.vm.hub().read(position, PIECE);
            position = piece.next;
            if !piece.data.is_empty() {
                if !sender.send(piece.data).await {
                    return;
                }
                continue;
            }
            tokio::select! {
                biased;
                _ = end.changed() => {}
                () = context.vm.finished() => return,
                () = sender.closed() => return,
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body))
}
