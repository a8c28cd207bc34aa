//! Accepting connections: who is at the other end, and how many may be open. Everybody takes places of their own, so that
//! nobody can take those of others.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{UnixListener, UnixStream, unix::SocketAddr},
};

use super::peer::{Peer, PeerError, PeerInfo, ask_for_writers};

/// How long to wait after an error of `accept`, such as having no descriptor left.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// Who shares places with whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    /// Those who operate the daemon and are not root.
    Operators,
    /// All other processes outside sessions that share places, whatever their user.
    Outside,
    /// All processes of sessions.
    Sessions,
    /// Those of which it is not known where they are.
    Unknown,
    /// Those of one session, by its id.
    Session(String),
    /// Those of one user outside sessions.
    User(u32),
}

/// Which places a connection takes: one of each party, of which there are as many.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) parties: Vec<(Party, usize)>,
    /// Whether it may bring more than a session's envelope, as far as can be told without the daemon's loop.
    pub(crate) operator: bool,
}

/// Where a peer belongs; of one that cannot be known, as the worst that it could be.
pub(crate) type SeatOf = Box<dyn Fn(Option<&Peer>) -> Seat + Send>;

/// Places taken, by party.
#[derive(Debug, Default)]
struct Taken(Mutex<HashMap<Party, usize>>);

impl Taken {
    fn with<T>(&self, body: impl FnOnce(&mut HashMap<Party, usize>) -> T) -> T {
        // Nothing that is done with it can panic halfway.
        body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a place of each party, if each has one left.
    fn take(self: &Arc<Self>, parties: Vec<(Party, usize)>) -> Option<Place> {
        let parties = self.with(|taken| {
            let is_left =
                |(party, places): &(Party, usize)| taken.get(party).is_none_or(|taken| taken < places);
            if !parties.iter().all(is_left) {
                return None;
            }
            let parties: Vec<Party> = parties.into_iter().map(|(party, _)| party).collect();
            for party in &parties {
                *taken.entry(party.clone()).or_default() += 1;
            }
            Some(parties)
        })?;
        Some(Place { taken: Arc::clone(self), parties })
    }
}

/// Places that a connection has, until it is dropped.
#[derive(Debug)]
struct Place {
    taken: Arc<Taken>,
    parties: Vec<Party>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.with(|taken| {
            for party in &self.parties {
                if let Some(places) = taken.get_mut(party) {
                    *places -= 1;
                    if *places == 0 {
                        taken.remove(party);
                    }
                }
            }
        });
    }
}

/// A socket's listener.
pub(crate) struct Gate {
    listener: UnixListener,
    seat_of: SeatOf,
    taken: Arc<Taken>,
    turned_away: Arc<AtomicU64>,
}

impl Gate {
    /// Counts whom there is no place for.
    pub(crate) fn new(
        listener: UnixListener,
        seat_of: SeatOf,
        turned_away: Arc<AtomicU64>,
    ) -> io::Result<Self> {
        ask_for_writers(&listener)?;
        Ok(Self { listener, seat_of, taken: Arc::default(), turned_away })
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
            let Seat { parties, operator } = (self.seat_of)(peer.as_ref().ok());
            // No place: closed at once, which the client sees.
            if let Some(place) = self.taken.take(parties) {
                return (Connection { stream, peer, operator, _place: place }, address);
            }
            self.turned_away.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// An accepted connection.
pub(crate) struct Connection {
    stream: UnixStream,
    peer: Result<Peer, PeerError>,
    operator: bool,
    _place: Place,
}

impl Connection {
    /// Who is at the other end.
    pub(crate) fn peer(&self) -> PeerInfo {
        PeerInfo { peer: self.peer.clone(), operator: self.operator }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_of_each_party_and_given_back() {
        let taken: Arc<Taken> = Arc::default();
        let take =
            |session: &str| taken.take(vec![(Party::Session(session.to_owned()), 2), (Party::Sessions, 3)]);
        let (first, second) = (take("a"), take("a"));
        assert!(first.is_some() && second.is_some());
        assert!(take("a").is_none(), "the session has no more");
        let third = take("b");
        assert!(third.is_some(), "another one has");
        assert!(take("c").is_none(), "all together have no more");
        drop(first);
        assert!(take("a").is_some(), "given back");
        drop((second, third));
        assert!(taken.with(|taken| taken.is_empty()), "nothing is remembered of who is gone");
    }
}
