//! Serving the connections of the control socket, one task each: HTTP/1 and nothing else, and nobody keeps a place, or memory of ours,
//! by sending half of something or by not reading what comes.
//!
//! Not by `axum::serve`, which sets no time limits, and which speaks HTTP/2 as well as soon as any crate asks hyper for that.

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Extension, Router, extract::ConnectInfo, serve::Listener as _};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    task::JoinSet,
    time::{Sleep, sleep},
};

use super::{
    gate::{Connection, Gate},
    server::{Calls, Unheard},
};

/// How long the head of a request may take to come, from the connection on or from the answer before it: whoever has nothing to ask
/// loses the place.
const HEAD: Duration = Duration::from_secs(5);
/// How long nothing of an answer may be read.
const STALLED: Duration = Duration::from_secs(30);
/// What one connection may make us keep of what it sent, or of what it does not read.
const BUFFER_BYTES: usize = 64 << 10;

/// Serves until `stop` resolves and the answers under way are sent.
pub(super) async fn serve(mut gate: Gate, router: Router, calls: Calls, stop: impl Future<Output = ()>) {
    let (stopping, _) = watch::channel(());
    let mut open = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            (connection, _) = gate.accept() => {
                open.spawn(converse(connection, router.clone(), calls.clone(), stopping.subscribe()));
            }
            Some(_ended) = open.join_next() => {}
        }
    }
    drop((gate, stopping));
    while open.join_next().await.is_some() {}
}

async fn converse(connection: Connection, router: Router, calls: Calls, mut stopping: watch::Receiver<()>) {
    let peer = connection.peer();
    let reads_late = ReadsLate::default();
    let connection = Patient { connection, reads_late: reads_late.clone(), stalled: None };
    let router = router.layer(Extension(ConnectInfo(peer.clone()))).layer(Extension(reads_late));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router));
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        // The sender is gone.
        _ = stopping.changed() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    // What else goes wrong on a connection is its peer's affair.
    if let Err(error) = ended
        && error.is_parse()
    {
        calls.tell(Unheard { peer: peer.peer, what: format!("sent what is no request: {error}") }).await;
    }
}

/// Whether the answer is one that people read at their leisure.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadsLate(Arc<AtomicBool>);

impl ReadsLate {
    pub(super) fn allow(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection that ends if nothing that is written to it is read for a while.
struct Patient {
    connection: Connection,
    reads_late: ReadsLate,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn unless_stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() || self.reads_late.0.load(Ordering::Relaxed) {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALLED)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.connection).poll_write(cx, bytes);
        self.unless_stalled(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}
