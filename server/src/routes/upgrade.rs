//! Streams: a body that is made while it is sent, and connections that become a stream in both directions
//! (RFC 9110, 7.8).

use std::any::Any;
use std::convert::Infallible;
use std::pin::Pin;
use std::task;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper::body::Frame;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::{Context, Refusal};
use crate::listen::Connection;

/// Pieces of a body that wait for the client.
const PIECES: usize = 2;

/// Where the pieces of a body go.
pub struct BodySender(mpsc::Sender<Vec<u8>>);

impl BodySender {
    /// Waits until there is room for it; false if the client has left.
    pub async fn send(&self, piece: Vec<u8>) -> bool {
        self.0.send(piece).await.is_ok()
    }

    /// The same for a thread that may wait.
    pub fn send_from_thread(&self, piece: Vec<u8>) -> bool {
        self.0.blocking_send(piece).is_ok()
    }

    /// Waits until the client has left.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// A body that ends when its sender goes.
pub fn body() -> (BodySender, Body) {
    let (sender, receiver) = mpsc::channel(PIECES);
    (BodySender(sender), Body::new(Pieces(receiver)))
}

struct Pieces(mpsc::Receiver<Vec<u8>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| Some(Ok(Frame::data(piece?.into()))))
    }
}

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {
    /// Itself, as what it is.
    fn any(self: Box<Self>) -> Box<dyn Any + Send>;
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {
    fn any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// A connection that is a stream from now on.
pub struct Stream {
    /// What the client sent before it had the answer.
    pub early: Bytes,
    /// The rest.
    pub io: Box<dyn Duplex>,
}

/// Makes the request's connection a stream of this protocol, which `serve` has as soon as the answer is out.
pub fn upgrade<F: Future<Output = ()> + Send>(
    context: &Context,
    request: Request,
    protocol: &'static str,
    serve: impl FnOnce(Stream) -> F + Send + 'static,
) -> Result<Response, Refusal> {
    switch(context, request, protocol, |upgraded| serve(stream(upgraded)))
}

/// The same for somebody who waits for the stream on a thread of his own: the socket, and what came before it.
pub fn upgrade_socket<F: Future<Output = ()> + Send>(
    context: &Context,
    request: Request,
    protocol: &'static str,
    serve: impl FnOnce(std::os::unix::net::UnixStream, Bytes) -> F + Send + 'static,
) -> Result<Response, Refusal> {
    switch(context, request, protocol, |upgraded| async move {
        // What is no socket is a test's.
        let Ok(parts) = upgraded.downcast::<TokioIo<Connection>>() else { return };
        let socket = parts.io.into_inner().into_stream().any().downcast::<tokio::net::UnixStream>();
        if let Ok(Ok(socket)) = socket.map(|socket| socket.into_std()) {
            serve(socket, parts.read_buf).await;
        }
    })
}

fn switch<F: Future<Output = ()> + Send>(
    context: &Context,
    mut request: Request,
    protocol: &'static str,
    serve: impl FnOnce(Upgraded) -> F + Send + 'static,
) -> Result<Response, Refusal> {
    let asked = |name, value: &str| {
        let values = request.headers().get_all(name).iter().filter_map(|v: &HeaderValue| v.to_str().ok());
        values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(value))
    };
    if !(asked(header::CONNECTION, "upgrade") && asked(header::UPGRADE, protocol)) {
        let text = format!("this is a stream: send Connection: Upgrade and Upgrade: {protocol}");
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, text));
    }
    let too_many = |_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many streams are open: close some");
    let place = context.streams.clone().try_acquire_owned().map_err(too_many)?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            serve(upgraded).await;
        }
        drop(place);
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
    Ok(response)
}

/// Without HTTP's limits of time: who reads slowly may have his reasons here.
fn stream(upgraded: Upgraded) -> Stream {
    match upgraded.downcast::<TokioIo<Connection>>() {
        Ok(parts) => Stream { early: parts.read_buf, io: parts.io.into_inner().into_stream() },
        Err(upgraded) => Stream { early: Bytes::new(), io: Box::new(TokioIo::new(upgraded)) },
    }
}
