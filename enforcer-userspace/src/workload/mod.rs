//! The workload socket: the SPIFFE Workload API, by which processes of sessions get their credentials, as gRPC over a Unix
//! socket. Open to every user, since sessions run as any: who gets something, the daemon's loop decides at every request, by
//! what the kernel says of who asks. Decides nothing itself.

mod authority;
mod connection;
mod service;
mod stream;

use std::{sync::Arc, time::Duration};

use axum::serve::Listener as _;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, transport::Server};

use crate::control::{gate::Gate, server::Calls};
use connection::Stream;
use proto::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use service::Workload;

/// What the build script makes of `proto/workload.proto`.
#[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]
#[expect(unreachable_pub, unused_qualifications, reason = "generated")]
mod proto {
    tonic::include_proto!("_");
}

/// Requests that wait for the loop, of the places that all requests have: an operator finds one.
const WAITING: usize = 16;
/// Requests, and streams, that one connection may have open.
const STREAMS: u32 = 16;
/// The largest request. A token to validate is the largest part of any.
const MAX_REQUEST_BYTES: usize = 64 << 10;
const MAX_HEADER_BYTES: u32 = 8 << 10;
/// What one connection may make us keep of what it sent and nobody has read.
const WINDOW_BYTES: u32 = 64 << 10;
/// Streams that were opened and at once given up: more, and the connection is closed.
const MAX_RESETS: usize = 20;
/// A peer that answers nothing for so long, such as one that is frozen, loses its connection.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may take until its answer begins, which is how long one may take that never comes to its end.
const BEGIN: Duration = Duration::from_secs(30);
/// Whoever calls must say that they mean this service, so that nobody is made to call it by an address they were given.
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Serves until `stop` resolves.
pub(crate) async fn serve(
    mut gate: Gate,
    calls: Calls,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (accepted, connections) = mpsc::channel(1);
    let accept = async move {
        loop {
            let (connection, _) = gate.accept().await;
            if accepted.send(Ok::<_, std::io::Error>(Stream::new(connection))).await.is_err() {
                return;
            }
        }
    };
    let workload = Workload::new(calls, Arc::new(Semaphore::new(WAITING)));
    let service = SpiffeWorkloadApiServer::new(workload).max_decoding_message_size(MAX_REQUEST_BYTES);
    let server = Server::builder()
        .timeout(BEGIN)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(tonic::service::interceptor::InterceptedService::new(service, require_header))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), stop);
    tokio::select! {
        ended = server => ended,
        () = accept => Ok(()),
    }
}

fn require_header(request: Request<()>) -> Result<Request<()>, Status> {
    match request.metadata().get(SECURITY_HEADER) {
        Some(value) if value == "true" => Ok(request),
        _ => Err(Status::invalid_argument(format!("the metadata `{SECURITY_HEADER}: true` is missing"))),
    }
}
