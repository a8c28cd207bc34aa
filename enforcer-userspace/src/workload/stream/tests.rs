use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use ring::rand::SystemRandom;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::*;
use crate::{
    control::{
        credential::Svid,
        peer::{Peer, PeerInfo},
        server::{Answer, Call, Calls, Refusal, Request},
    },
    credentials::{Authorities, Authority, Bundle, SpiffeId},
};

const HOUR: Duration = Duration::from_secs(3600);

/// A loop that answers, and what it answers with.
struct Loop {
    standing: watch::Sender<Standing>,
    bundle: watch::Sender<Arc<Bundle>>,
    calls: mpsc::Receiver<Call>,
    renew_in: Option<Duration>,
    ends_in: Duration,
}

fn bundle() -> Arc<Bundle> {
    let domain: crate::credentials::TrustDomain = "example.org".parse().unwrap();
    let authority = Authority::generate(&domain, 1_700_000_000, &SystemRandom::new()).unwrap();
    Arc::new(Bundle::of(&Authorities::new(domain, [authority])))
}

fn start(renew_in: Option<Duration>, ends_in: Duration) -> (Loop, Asker) {
    let (sender, calls) = mpsc::channel(4);
    let (mine, _theirs) = tokio::net::UnixStream::pair().unwrap();
    let peer = PeerInfo { peer: Peer::of(&mine), operator: false };
    let standing = watch::channel(Standing::Held { envelope: 1 }).0;
    let answers = Loop { standing, bundle: watch::channel(bundle()).0, calls, renew_in, ends_in };
    let calls = Calls { heard: sender, unheard: mpsc::channel(1).0 };
    (answers, Asker { peer, calls, waiting: Arc::new(Semaphore::new(1)) })
}

impl Loop {
    async fn answer(&mut self) {
        let Call { request, reply, .. } = self.calls.recv().await.expect("it is asked");
        assert!(matches!(request, Request::Credential(Wanted::X509)));
        let lease = Lease {
            standing: self.standing.subscribe(),
            bundle: self.bundle.subscribe(),
            renew_in: self.renew_in,
            ends_in: self.ends_in,
        };
        let id: SpiffeId = "spiffe://example.org/agent/a".parse().unwrap();
        drop(reply.send(Ok(Answer::Credential(Box::new(Issued { id, svid: Svid::None, lease })))));
    }

    async fn refuse(&mut self) {
        let call = self.calls.recv().await.expect("it is asked");
        drop(call.reply.send(Err(Refusal::new(StatusCode::FORBIDDEN, "no-identity", "no"))));
    }
}

fn write(issued: &Issued) -> Result<String, Status> {
    Ok(issued.id.to_string())
}

async fn open(answers: &mut Loop, asker: Asker) -> Messages<String> {
    let (stream, ()) = tokio::join!(begin(asker, Wanted::X509, write), answers.answer());
    let mut stream = stream.unwrap();
    assert!(stream.next().await.unwrap().is_ok(), "one at once");
    stream
}

#[tokio::test(start_paused = true)]
async fn another_comes_at_half_of_the_life() {
    let (mut answers, asker) = start(Some(Duration::from_secs(300)), HOUR);
    let mut stream = open(&mut answers, asker).await;
    let began = Instant::now();
    let (next, ()) = tokio::join!(stream.next(), answers.answer());
    assert!(next.unwrap().is_ok());
    assert_eq!(began.elapsed().as_secs(), 300);
}

#[tokio::test(start_paused = true)]
async fn another_comes_when_something_in_it_changes() {
    let (mut answers, asker) = start(None, HOUR);
    let mut stream = open(&mut answers, asker).await;
    let began = Instant::now();
    answers.bundle.send_replace(bundle());
    let (next, ()) = tokio::join!(stream.next(), answers.answer());
    assert!(next.unwrap().is_ok());
    answers.standing.send_replace(Standing::Held { envelope: 2 });
    let (next, ()) = tokio::join!(stream.next(), answers.answer());
    assert!(next.unwrap().is_ok());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_session_and_says_why() {
    for (end, expected) in [
        (Standing::Ended("the session is revoked"), "the session is revoked"),
        (Standing::Held { envelope: 1 }, "the session is expired"),
    ] {
        let (mut answers, asker) = start(None, HOUR);
        let mut stream = open(&mut answers, asker).await;
        let began = Instant::now();
        if let Standing::Ended(_) = end {
            answers.standing.send_replace(end);
        }
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::PermissionDenied, expected));
        assert!(stream.next().await.is_none());
        let waited = if let Standing::Ended(_) = end { Duration::ZERO } else { HOUR };
        assert_eq!(began.elapsed().as_secs(), waited.as_secs());
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_though_nobody_reads() {
    let (mut answers, asker) = start(Some(Duration::from_secs(300)), HOUR);
    let (stream, ()) = tokio::join!(begin(asker, Wanted::X509, write), answers.answer());
    let mut stream = stream.unwrap();
    // The first waits to be read, the second to be sent.
    answers.answer().await;
    answers.standing.send_replace(Standing::Ended("the session is revoked"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(stream.next().await.unwrap().is_ok());
    assert_eq!(stream.next().await.unwrap().unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_loop_says_no_or_is_gone() {
    let (mut answers, asker) = start(Some(Duration::from_secs(300)), HOUR);
    let mut stream = open(&mut answers, asker.clone()).await;
    let (next, ()) = tokio::join!(stream.next(), answers.refuse());
    assert_eq!(next.unwrap().unwrap_err().code(), Code::PermissionDenied);

    let (refused, ()) = tokio::join!(begin(asker.clone(), Wanted::X509, write), answers.refuse());
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);

    let mut stream = open(&mut answers, asker).await;
    drop(answers);
    assert_eq!(stream.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_for_a_client_that_is_gone() {
    let (mut answers, asker) = start(Some(Duration::from_secs(300)), HOUR);
    drop(open(&mut answers, asker).await);
    tokio::time::sleep(HOUR / 2).await;
    assert!(answers.calls.try_recv().is_err());
}
