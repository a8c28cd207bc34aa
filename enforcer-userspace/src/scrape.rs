//! Metrics over TCP, for a collector on this host: `GET /metrics` and nothing else, on a loopback address.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::metrics::MEDIA_TYPE;

/// Who is answered at one time. Any process of the host may ask.
const AT_ONCE: usize = 4;
/// How long one may keep a place.
const PATIENCE: Duration = Duration::from_secs(3);
/// What one connection may make us keep.
const BUFFER_BYTES: usize = 16 << 10;

/// Who waits for the text.
pub(crate) type Scrape = oneshot::Sender<String>;

/// Listens at a loopback address: whoever reaches it may read.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_loopback() {
        let why = "metrics are served on loopback addresses only";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves until `stop` resolves.
pub(crate) async fn serve(
    listener: TcpListener,
    scrapes: mpsc::Sender<Scrape>,
    stop: impl Future<Output = ()>,
) {
    let router = Router::new().route("/metrics", get(move || scrape(scrapes.clone())));
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut stop = pin!(stop);
    loop {
        let place = tokio::select! {
            () = &mut stop => return,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let connection = tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((connection, _)) = connection else {
            // Descriptors are short: others need them first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            // Whoever takes longer is not answered.
            drop(timeout(PATIENCE, converse(connection, router)).await);
            drop(place);
        });
    }
}

async fn converse(connection: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router));
    // What goes wrong on a connection is its peer's affair.
    drop(served.await);
}

async fn scrape(scrapes: mpsc::Sender<Scrape>) -> Response {
    let (reply, text) = oneshot::channel();
    let asked = scrapes.send(reply).await.is_ok();
    match text.await {
        Ok(text) if asked => ([(header::CONTENT_TYPE, MEDIA_TYPE)], text).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping").into_response(),
    }
}
