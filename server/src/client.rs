//! The other end, for programs that wait for answers.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::listen::socket_path;
use crate::{Answer, ServerError};

/// How long an answer may take to begin.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest answer that is kept whole.
const MAX_ANSWER: usize = 16 << 20;

/// A connection to a machine's control API.
pub struct Client {
    /// Also drives the connection, while somebody waits for something.
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    label: String,
}

/// A connection that has become a stream.
pub struct Upgraded {
    /// The stream; its calls wait.
    pub stream: std::os::unix::net::UnixStream,
    /// What came before it.
    pub early: Vec<u8>,
}

type Result<T> = std::result::Result<T, ServerError>;

impl Client {
    /// Connects with the machine of this folder; errors call it by the label.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn connect(folder: &Path, label: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let reach = async {
            let (path, _folder) = socket_path(folder)?;
            let stream = UnixStream::connect(path).await?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
            tokio::spawn(connection.with_upgrades());
            io::Result::Ok(sender)
        };
        let reached = runtime.block_on(async { timeout(PATIENCE, reach).await });
        match reached.map_err(io::Error::from).flatten() {
            Ok(sender) => Ok(Self { runtime, sender, label: label.to_owned() }),
            Err(e) => Err(ServerError::NoAnswer { id: label.to_owned(), what: e.to_string() }),
        }
    }

    /// The answer to a question.
    ///
    /// # Errors
    /// The machine refuses, or does not answer.
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        let text = self.text(path)?;
        serde_json::from_slice(&text).map_err(|e| self.no_answer(&e))
    }

    /// The same, as it comes.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn text(&mut self, path: &str) -> Result<Vec<u8>> {
        let response = self.send(Method::GET, path, None)?;
        self.whole(response)
    }

    /// Has the machine do something.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn post(&mut self, path: &str) -> Result<()> {
        let response = self.send(Method::POST, path, None)?;
        self.whole(response).map(drop)
    }

    /// Hands over an answer piece by piece, until it ends or the receiver has enough.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn stream(&mut self, path: &str, mut piece: impl FnMut(&[u8]) -> ControlFlow<()>) -> Result<()> {
        let mut body = self.send(Method::GET, path, None)?.into_body();
        while let Some(frame) = self.runtime.block_on(body.frame()) {
            // A machine that was killed says no good-bye.
            let Ok(frame) = frame else { break };
            if frame.data_ref().is_some_and(|data| piece(data).is_break()) {
                break;
            }
        }
        Ok(())
    }

    /// Makes the connection a stream of this protocol.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn upgrade(mut self, path: &str, protocol: &str) -> Result<Upgraded> {
        let response = self.send(Method::GET, path, Some(protocol))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.no_answer(&"it does not become a stream"));
        }
        let upgraded = self.runtime.block_on(async {
            let parts = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
            let parts = parts.downcast::<TokioIo<UnixStream>>().map_err(|_| io::Error::other("no socket"))?;
            let stream = parts.io.into_inner().into_std()?;
            stream.set_nonblocking(false)?;
            io::Result::Ok(Upgraded { stream, early: parts.read_buf.to_vec() })
        });
        upgraded.map_err(|e| self.no_answer(&e))
    }

    /// The head of a good answer.
    fn send(&mut self, method: Method, path: &str, protocol: Option<&str>) -> Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, "machine");
        if let Some(protocol) = protocol {
            request = request.header(CONNECTION, "upgrade").header(UPGRADE, protocol);
        }
        let request = request.body(Full::default()).map_err(|e| self.no_answer(&e))?;
        let sent = self.sender.send_request(request);
        let response = self.runtime.block_on(async { timeout(PATIENCE, sent).await });
        let response = response.map_err(|e| self.no_answer(&e))?.map_err(|e| self.no_answer(&e))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let text = self.whole(response)?;
        let message = match serde_json::from_slice(&text) {
            Ok(Answer { error }) => error,
            Err(_) => status.to_string(),
        };
        Err(ServerError::Refused { id: self.label.clone(), message })
    }

    fn whole(&self, response: Response<Incoming>) -> Result<Vec<u8>> {
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect();
        let body = self.runtime.block_on(async { timeout(PATIENCE, body).await });
        let body = body.map_err(|e| self.no_answer(&e))?.map_err(|e| self.no_answer(&e))?;
        Ok(body.to_bytes().to_vec())
    }

    fn no_answer(&self, what: &dyn std::fmt::Display) -> ServerError {
        ServerError::NoAnswer { id: self.label.clone(), what: what.to_string() }
    }
}
