//! Trees of the guest's as tar streams, by its agent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::protocol::{self, Exit, Frame, PIECE, Start, WINDOW, stream};
use agent::{AgentError, Event, Host, Session};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use http_body_util::BodyExt;
use jail::Kind;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use utoipa::IntoParams;

use super::upgrade::{BodySender, body};
use super::{Answer, Context, Refusal};

/// Longest wait for an agent, in seconds.
const MAX_WAIT: u32 = 60 * 60;
/// Most bytes that are kept of what the guest says beside its files.
const MAX_SAID: usize = 1024;

/// Most bytes that are read of a stream that the guest does not want.
const MAX_IGNORED: usize = 64 << 20;

/// Which tree.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// A path in the guest.
    path: String,
    /// Seconds to wait for an agent in a guest that is still starting; 5 if nothing is said.
    #[serde(default = "five")]
    wait: u32,
}

fn five() -> u32 {
    5
}

/// They take as long as the files do: no limit of time or size is theirs.
pub fn routes() -> Router<Context> {
    Router::new().route("/v1/files", get(pack).put(unpack))
}

/// A file or a folder with all that is in it as a tar stream, under its own name, or what is in a folder for `/folder/.`.
/// What cannot be read is left out. A stream without an end has lost its guest.
#[utoipa::path(
    get, path = "/v1/files", params(Files),
    responses((status = 200, content_type = "application/x-tar", body = Vec<u8>), (status = 400, body = Answer), (status = 404, body = Answer), (status = 409, body = Answer), (status = 503, body = Answer))
)]
pub async fn pack(
    State(context): State<Context>,
    query: Result<Query<Files>, QueryRejection>,
) -> Result<impl IntoResponse, Refusal> {
    let (sender, body) = body();
    let (began, begins) = oneshot::channel();
    work(&context, query, &["pack"], false, move |session| send(session, &sender, began)).await?;
    begins.await.map_err(|_| Refusal::from(AgentError::Gone))??;
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], body))
}

/// Unpacks a tar stream below a folder that is there.
#[utoipa::path(
    put, path = "/v1/files", params(Files), request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 204), (status = 400, body = Answer), (status = 409, body = Answer), (status = 503, body = Answer))
)]
pub async fn unpack(
    State(context): State<Context>,
    query: Result<Query<Files>, QueryRejection>,
    mut data: Body,
) -> Result<StatusCode, Refusal> {
    let (sender, pieces) = mpsc::channel(2);
    let (ended, ends) = oneshot::channel();
    let mut ignored = 0;
    work(&context, query, &["unpack", "--below"], true, move |session| {
        // Nobody waits for it if the client has left.
        let _ = ended.send(session.and_then(|session| take(&session, pieces)));
    })
    .await?;
    while let Some(frame) = data.frame().await {
        // A body that breaks off ends the work with the sender.
        let broken = |e| Refusal::new(StatusCode::BAD_REQUEST, format!("the body cannot be read: {e}"));
        let Ok(piece) = frame.map_err(broken)?.into_data() else { continue };
        let len = piece.len();
        // Who is still sending would not read the answer.
        if sender.send(Some(piece)).await.is_err() {
            ignored += len;
            if ignored > MAX_IGNORED {
                break;
            }
        }
    }
    let _ = sender.send(None).await;
    ends.await.map_err(|_| Refusal::from(AgentError::Gone))?.map(|()| StatusCode::NO_CONTENT)
}

/// Starts one of the agent's own programs on a path, and `with` it on a thread of its own, for which there is a place.
async fn work(
    context: &Context,
    query: Result<Query<Files>, QueryRejection>,
    words: &[&str],
    input: bool,
    with: impl FnOnce(Result<Session, Refusal>) + Send + 'static,
) -> Result<(), Refusal> {
    let Query(Files { path, wait }) = query?;
    if path.is_empty() || path.contains('\0') {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "there is no path: give one of the guest's"));
    }
    let machine = context.vm.started().await;
    let machine =
        machine.ok_or_else(|| Refusal::new(StatusCode::CONFLICT, "it is not running: try again"))?;
    let too_many = |_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many streams are open: close some");
    let place: OwnedSemaphorePermit = context.streams.clone().try_acquire_owned().map_err(too_many)?;
    let argv = words.iter().copied().chain([path.as_str()]).map(|word| word.as_bytes().to_vec()).collect();
    let start = Start { argv, input, builtin: true, ..Start::default() };
    let agent: Arc<Host> = machine.agent().clone();
    let patience = Duration::from_secs(wait.min(MAX_WAIT).into());
    let body = move || {
        with(agent.start(&start, patience).map_err(Refusal::from));
        drop(place);
    };
    jail::spawn(Kind::Client, "files", body).map(drop).map_err(|e| {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("the host refuses a thread ({e}): try again"))
    })
}

/// From the guest to the client. `began` is told as soon as there is something, or why there is nothing.
fn send(session: Result<Session, Refusal>, client: &BodySender, began: oneshot::Sender<Result<(), Refusal>>) {
    let session = match session {
        Ok(session) => session,
        Err(refusal) => return drop(began.send(Err(refusal))),
    };
    let (mut began, mut said) = (Some(began), Vec::new());
    loop {
        match session.next(None) {
            Some(Event::Data(stream::OUTPUT, data)) => {
                if let Some(began) = began.take() {
                    let _ = began.send(Ok(()));
                }
                let len = data.len();
                if !client.send_from_thread(data) || !grant(&session, stream::OUTPUT, len) {
                    return;
                }
            }
            Some(Event::Data(stream, data)) => {
                let len = data.len();
                keep(&mut said, &data);
                if !grant(&session, stream, len) {
                    return;
                }
            }
            Some(Event::Exit(exit)) => {
                if let Some(began) = began.take() {
                    let _ = began.send(judge(&exit, &said, StatusCode::NOT_FOUND));
                }
                return;
            }
            Some(Event::End(_) | Event::Credit(_)) => {}
            Some(Event::Lost) | None => return,
        }
    }
}

/// From the client to the guest: pieces, and nothing for their end.
fn take(session: &Session, mut pieces: mpsc::Receiver<Option<Bytes>>) -> Result<(), Refusal> {
    let (mut credit, mut said) = (WINDOW as usize, Vec::new());
    // Nobody waits for the answer of a client that breaks off.
    let left = || Refusal::from(AgentError::Protocol);
    // Looks at what the guest has said, waiting for it or not; how it ended, if it has.
    let mut listen = |credit: &mut usize, wait: bool| -> Result<Option<Exit>, Refusal> {
        let deadline = if wait { None } else { Some(Instant::now()) };
        match session.next(deadline) {
            Some(Event::Credit(more)) => *credit = credit.saturating_add(more as usize),
            Some(Event::Data(stream, data)) => {
                keep(&mut said, &data);
                grant(session, stream, data.len());
            }
            Some(Event::Exit(exit)) => {
                return judge(&exit, &said, StatusCode::BAD_REQUEST).map(|()| Some(exit));
            }
            Some(Event::End(_)) => {}
            Some(Event::Lost) => return Err(AgentError::Gone.into()),
            None if wait => return Err(AgentError::Gone.into()),
            None => {}
        }
        Ok(None)
    };
    loop {
        let Some(mut piece) = pieces.blocking_recv().ok_or_else(left)? else { break };
        while !piece.is_empty() {
            let full = credit == 0;
            if listen(&mut credit, full)?.is_some() {
                return Ok(());
            }
            let data = piece.split_to(piece.len().min(credit).min(PIECE));
            credit -= data.len();
            if !data.is_empty() {
                session.send(&Frame {
                    kind: protocol::Kind::Data,
                    stream: stream::INPUT,
                    session: 0,
                    payload: &data,
                })?;
            }
        }
    }
    session.send(&Frame { kind: protocol::Kind::End, stream: stream::INPUT, session: 0, payload: &[] })?;
    while listen(&mut credit, true)?.is_none() {}
    Ok(())
}

/// The guest may send so much more; false if it is gone.
fn grant(session: &Session, stream: u8, len: usize) -> bool {
    let number = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    session.send(&Frame { kind: protocol::Kind::Credit, stream, session: 0, payload: &number }).is_ok()
}

fn keep(said: &mut Vec<u8>, data: &[u8]) {
    let room = MAX_SAID.saturating_sub(said.len());
    said.extend(data.iter().take(room));
}

/// How it ended, and what the guest has said then on a line.
fn judge(exit: &Exit, said: &[u8], status: StatusCode) -> Result<(), Refusal> {
    let text = match exit {
        Exit::Code(0) => return Ok(()),
        Exit::Failed(_, why) => why.clone(),
        other => {
            let said = String::from_utf8_lossy(said);
            let line: String =
                said.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
            if line.is_empty() { format!("it ended with status {}", other.status()) } else { line }
        }
    };
    Err(Refusal::new(status, format!("{text}: see what is there with guesthouse exec")))
}

impl From<AgentError> for Refusal {
    fn from(error: AgentError) -> Self {
        let status = match error {
            AgentError::Busy => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        };
        Self::new(status, error.to_string())
    }
}
