//! The thread that answers: HTTP/1.1 on the socket of the machine's folder.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use jail::Kind;
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, duplex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};

use crate::registry::file;
use crate::routes::upgrade::Duplex;
use crate::routes::{Context, router};
use crate::{ServerError, Vm, greeting};

/// Most connections at once.
const MAX_CONNECTIONS: usize = 64;
/// How long the head of a request may take, and a client may rest between two.
const HEAD: Duration = Duration::from_secs(10);
/// Longest head of a request.
const MAX_HEAD: usize = 16 << 10;
/// A client that takes nothing for so long is sent away when its place is wanted.
const STALLED: Duration = Duration::from_secs(5);
/// How long clients have for what is left to say when the machine has ended.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long [`answers`] waits.
const SOON: Duration = Duration::from_millis(2);
/// How long a host without descriptors or memory is given.
const RESPITE: Duration = Duration::from_millis(100);
/// What a client is told for whom there is no place.
const FULL: &str = "{\"error\":\"too many clients are connected: try again later\"}";

/// The server of a machine. Dropping it ends it, after clients had a moment to read what was left to say.
pub struct Server {
    vm: Arc<Vm>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens in the machine's folder.
    ///
    /// # Errors
    /// The host refuses the socket or the thread.
    pub fn start(vm: &Arc<Vm>) -> Result<Self, ServerError> {
        let (path, _folder) = socket_path(vm.folder().path())?;
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(4)
            .thread_name("api-worker")
            .build()?;
        let served = vm.clone();
        let body = move || {
            if let Err(e) = runtime.block_on(serve(served, listener)) {
                tracing::warn!("the control API ends: {e}");
            }
            runtime.shutdown_background();
        };
        Ok(Self { vm: vm.clone(), thread: Some(jail::spawn(Kind::Api, "api", body)?) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.vm.close();
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// The socket of a folder, by a path that is short wherever the folder is, as long as the descriptor is open.
pub fn socket_path(folder: &Path) -> io::Result<(PathBuf, OwnedFd)> {
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), file::SOCKET).into(), folder))
}

async fn serve(vm: Arc<Vm>, listener: UnixListener) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let context = Context::new(vm.clone());
    let router = router(context.clone());
    tokio::spawn(greeting::serve(vm.clone()));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = vm.finished() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::debug!("a client is not let in: {e}");
                sleep(RESPITE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            let _ = stream.try_write(full().as_bytes());
            continue;
        };
        let connection = Connection { stream: Box::new(stream), places: places.clone(), stalled: None };
        tokio::spawn(converse(connection, router.clone(), vm.clone(), place));
    }
    drop(listener);
    let everybody = async {
        let _ = places.acquire_many(MAX_CONNECTIONS as u32).await;
        context.streams_end().await;
    };
    let _ = timeout(FAREWELL, everybody).await;
    Ok(())
}

/// What a client gets who sends these bytes in one go and goes away soon after. In memory, for those who try what the
/// server makes of anything.
#[must_use]
pub fn answers(vm: &Arc<Vm>, requests: &[u8]) -> Vec<u8> {
    let mut answers = Vec::new();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        return answers;
    };
    runtime.block_on(async {
        let places = Arc::new(Semaphore::new(1));
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (mut client, stream) = duplex(1 << 20);
        let connection = Connection { stream: Box::new(stream), places, stalled: None };
        tokio::spawn(converse(connection, router(Context::new(vm.clone())), vm.clone(), place));
        let conversation = async {
            client.write_all(requests).await?;
            client.shutdown().await?;
            client.read_to_end(&mut answers).await
        };
        // It ends sooner, unless something is left open.
        let _ = timeout(SOON, conversation).await;
    });
    runtime.shutdown_background();
    answers
}

fn full() -> String {
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close";
    format!("{head}\r\ncontent-length: {}\r\n\r\n{FULL}", FULL.len())
}

/// Answers one client until it leaves.
async fn converse(connection: Connection, router: Router, vm: Arc<Vm>, place: OwnedSemaphorePermit) {
    let service = TowerToHyperService::new(router);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .half_close(true)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = vm.finished() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(e) = result {
        tracing::debug!("a client of the control API: {e}");
    }
    drop(place);
}

/// A client's connection.
pub(crate) struct Connection {
    stream: Box<dyn Duplex>,
    places: Arc<Semaphore>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// The stream without limits.
    pub fn into_stream(self) -> Box<dyn Duplex> {
        self.stream
    }

    /// The client takes nothing, or something again.
    fn watch(&mut self, context: &mut TaskContext<'_>, waits: bool) -> io::Result<()> {
        if !waits {
            self.stalled = None;
            return Ok(());
        }
        loop {
            let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALLED)));
            if timer.as_mut().poll(context).is_pending() {
                return Ok(());
            }
            if self.places.available_permits() == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stalled = None;
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, data);
        self.watch(context, written.is_pending())?;
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
