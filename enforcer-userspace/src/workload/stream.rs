//! A stream of credentials: one at once, another at half of its life and whenever something in it changes, and an error as soon
//! as the session may have no more.

use std::future::pending;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::service::Asker;
use crate::control::credential::{Issued, Lease, Standing, Wanted};

pub(super) type Messages<T> = ReceiverStream<Result<T, Status>>;

/// How a message is made of what was issued.
pub(super) type Write<T> = fn(&Issued) -> Result<T, Status>;

/// Begins a stream, if there is something to begin with.
pub(super) async fn begin<T: Send + 'static>(
    asker: Asker,
    wanted: Wanted,
    write: Write<T>,
) -> Result<Messages<T>, Status> {
    let first = asker.ask(wanted.clone()).await?;
    // Room for one message, and for the error at the end, which must get through to a client that reads slowly, too.
    let (send, receive) = mpsc::channel(2);
    let last = send.clone().reserve_owned().await.map_err(|_closed| Status::internal("nobody reads"))?;
    tokio::spawn(async move {
        if let Err(status) = go_on(asker, wanted, write, first, send).await {
            last.send(Err(status));
        }
    });
    Ok(ReceiverStream::new(receive))
}

/// Returns when nobody reads any more, or with what the stream ends with.
async fn go_on<T>(
    asker: Asker,
    wanted: Wanted,
    write: Write<T>,
    mut issued: Issued,
    send: mpsc::Sender<Result<T, Status>>,
) -> Result<(), Status> {
    loop {
        let message = write(&issued)?;
        let (mut lease, given) = (issued.lease, Instant::now());
        let is_old = tokio::select! {
            sent = send.send(Ok(message)) => match sent {
                Ok(()) => false,
                Err(_closed) => return Ok(()),
            },
            // Before it was read, there is a newer one.
            new = something_new(&mut lease, given) => new.map(|()| true)?,
        };
        if !is_old {
            tokio::select! {
                () = send.closed() => return Ok(()),
                new = something_new(&mut lease, given) => new?,
            }
        }
        issued = asker.ask(wanted.clone()).await?;
    }
}

/// Waits until there is something new to be had; an error if there is nothing more.
async fn something_new(lease: &mut Lease, given: Instant) -> Result<(), Status> {
    let stopping = |_dropped| Status::unavailable("the daemon is stopping");
    let due = async {
        match lease.renew_in {
            Some(renew_in) => sleep_until(given + renew_in).await,
            None => pending().await,
        }
    };
    tokio::select! {
        biased;
        changed = lease.standing.changed() => {
            changed.map_err(stopping)?;
            match *lease.standing.borrow() {
                Standing::Ended(why) => Err(Status::permission_denied(why)),
                Standing::Held { .. } => Ok(()),
            }
        }
        () = sleep_until(given + lease.ends_in) => Err(Status::permission_denied("the session is expired")),
        changed = lease.bundle.changed() => changed.map_err(stopping),
        () = due => Ok(()),
    }
}

#[cfg(test)]
mod tests;
