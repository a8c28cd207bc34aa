//! Accepting connections: who is at the other end, and how many may be open. Processes of sessions get few, of their own, so
//! that they cannot take those of the operators.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{UnixListener, UnixStream, unix::SocketAddr},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::peer::{Peer, PeerError, ask_for_writers};

/// Open connections of processes outside sessions.
const OUTSIDE: usize = 256;
/// Open connections of processes inside sessions, all together: enough to be told no.
const INSIDE: usize = 8;
/// How long to wait after an error of `accept`, such as having no descriptor left.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// Whether a process is in a session, as far as can be told without the daemon's loop.
pub(crate) type IsInside = Box<dyn Fn(u32) -> bool + Send>;

/// The control socket's listener.
pub(crate) struct Gate {
    listener: UnixListener,
    is_inside: IsInside,
    outside: Arc<Semaphore>,
    inside: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new(listener: UnixListener, is_inside: IsInside) -> io::Result<Self> {
        ask_for_writers(&listener)?;
        let [outside, inside] = [OUTSIDE, INSIDE].map(|open| Arc::new(Semaphore::new(open)));
        Ok(Self { listener, is_inside, outside, inside })
    }
}

impl Listener for Gate {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else {
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            };
            // What could not be asked for is not known, and what is not known is refused.
            let peer = match ask_for_writers(&stream) {
                Ok(()) => Peer::of(&stream),
                Err(_refused) => Err(PeerError::Unknown),
            };
            // A peer that cannot be known is treated as the worst it could be.
            let inside = peer.as_ref().map_or(true, |peer| (self.is_inside)(peer.pid));
            let places = if inside { &self.inside } else { &self.outside };
            // No place: closed at once, which the client sees.
            if let Ok(place) = Arc::clone(places).try_acquire_owned() {
                return (Connection { stream, peer, inside, _place: place }, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// An accepted connection.
pub(crate) struct Connection {
    stream: UnixStream,
    pub(super) peer: Result<Peer, PeerError>,
    pub(super) inside: bool,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, peer, .. } = &mut *self;
        let Ok(peer) = peer else {
            return Pin::new(stream).poll_read(cx, buffer);
        };
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let into = buffer.initialize_unfilled();
            match stream.try_io(Interest::READABLE, || peer.read(stream, into)) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
