//! The client side, for the command line.

use std::{
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::dto;

/// Why the daemon did not answer, or answered no.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no daemon is running: nobody listens at `{}`", socket.display())]
    NotRunning { socket: PathBuf },
    #[error("no permission to use the control socket `{}`", socket.display())]
    Permission { socket: PathBuf },
    #[error("connect to the control socket `{}`", socket.display())]
    Connect {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("talk to the daemon")]
    Http(#[from] hyper::Error),
    #[error("understand the daemon's answer")]
    Answer(#[source] serde_json::Error),
    #[error("{message}")]
    Refused { status: StatusCode, code: String, message: String, hint: Option<String> },
}

/// A connection to the daemon for one request.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parse(self.send(Method::GET, path, Bytes::new()).await?).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parse(self.send(Method::DELETE, path, Bytes::new()).await?).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Answer)?;
        parse(self.send(Method::POST, path, body.into()).await?).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Answer)?;
        parse(self.send(Method::PUT, path, body.into()).await?).await
    }

    /// Hands every line of a streamed answer to `take`, until the stream ends or `take` says to stop.
    pub(crate) async fn lines(
        &self,
        path: &str,
        mut take: impl FnMut(&str) -> std::ops::ControlFlow<()>,
    ) -> Result<(), ClientError> {
        let mut body = self.send(Method::GET, path, Bytes::new()).await?.into_body();
        let mut buffer = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                buffer.extend_from_slice(&data);
            }
            let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') else {
                continue;
            };
            let rest = buffer.split_off(end + 1);
            for line in String::from_utf8_lossy(&buffer).lines() {
                if take(line).is_break() {
                    return Ok(());
                }
            }
            buffer = rest;
        }
        Ok(())
    }

    /// Sends a request, and again if the daemon asks for that.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        const ATTEMPTS: u32 = 8;
        for _ in 1..ATTEMPTS {
            match self.send_once(method.clone(), path, body.clone()).await {
                Err(ClientError::Refused { code, .. }) if code == dto::TRY_AGAIN => {}
                done => return done,
            }
        }
        self.send_once(method, path, body).await
    }

    async fn send_once(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let socket = self.socket.clone();
        let stream = UnixStream::connect(&socket).await.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning { socket },
            io::ErrorKind::PermissionDenied => ClientError::Permission { socket },
            _ => ClientError::Connect { socket, source },
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; what goes wrong on it reaches us through the answer.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "enforcer")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .expect("method, path and headers are fixed and valid");
        let response = sender.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let problem: dto::Problem = serde_json::from_slice(&body).map_err(ClientError::Answer)?;
        let dto::ProblemBody { code, message, hint } = problem.error;
        Err(ClientError::Refused { status, code, message, hint })
    }
}

async fn parse<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    let body = response.into_body().collect().await?.to_bytes();
    serde_json::from_slice(&body).map_err(ClientError::Answer)
}
