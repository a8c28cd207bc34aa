//! A connection as the gRPC server takes it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

use super::authority::Requests;
use crate::control::{
    gate::Connection,
    peer::{PeerInfo, Writer},
};

/// What is read at once.
const READ_BYTES: usize = 4096;
/// How long a client may take to say that it speaks HTTP/2. Until it has, nothing else has a limit of time.
const PREFACE: Duration = Duration::from_secs(5);

pub(super) struct Stream {
    connection: Connection,
    requests: Requests,
    /// Until the preface is there.
    late: Option<Pin<Box<Sleep>>>,
    /// What was read and is not taken yet, and how much of it is.
    waiting: Vec<u8>,
    taken: usize,
}

impl Stream {
    pub(super) fn new(connection: Connection) -> Self {
        let late = Some(Box::pin(sleep(PREFACE)));
        Self { connection, requests: Requests::new(), late, waiting: Vec::new(), taken: 0 }
    }
}

impl Connected for Stream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.connection.peer()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { connection, requests, late, waiting, taken } = &mut *self;
        while *taken == waiting.len() {
            let mut bytes = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            let Poll::Ready(done) = Pin::new(&mut *connection).poll_read(cx, &mut read) else {
                let Some(late) = late else { return Poll::Pending };
                ready!(late.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            };
            done?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            // Before Linux 6.16 the kernel may not say who wrote first. Nothing that comes over such a connection is answered,
            // so it ends here, and clients make another.
            if connection.peer().peer.is_ok_and(|peer| peer.writer() == Writer::Unknown) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            waiting.clear();
            *taken = 0;
            requests.take(read.filled(), waiting);
            if requests.has_begun() {
                *late = None;
            }
        }
        let left = waiting.get(*taken..).unwrap_or_default();
        let now = left.get(..buffer.remaining()).unwrap_or(left);
        buffer.put_slice(now);
        *taken += now.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}
