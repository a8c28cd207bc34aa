//! The calls of the Workload API: what is asked for, and how what is given is written.

use std::{collections::HashMap, sync::Arc};

use axum::http::StatusCode;
use prost_types::{ListValue, Struct, Value, value::Kind};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::{
    proto::{
        JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
        ValidateJwtsvidRequest, ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, Witsvid,
        WitsvidRequest, WitsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
        X509svidResponse, spiffe_workload_api_server::SpiffeWorkloadApi,
    },
    stream::{self, Messages},
};
use crate::{
    clock,
    control::{
        credential::{Issued, Svid, Wanted},
        peer::PeerInfo,
        server::{self, Answer, Calls, Refusal, Request as Asked, Unheard},
    },
    credentials::{Bundle, Expected, MAX_AUDIENCE_BYTES, TokenKind},
};

pub(super) struct Workload {
    calls: Calls,
    waiting: Arc<Semaphore>,
}

impl Workload {
    pub(super) const fn new(calls: Calls, waiting: Arc<Semaphore>) -> Self {
        Self { calls, waiting }
    }

    fn asker<T>(&self, request: &Request<T>) -> Result<Asker, Status> {
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("the connection has no peer"))?;
        Ok(Asker { peer, calls: self.calls.clone(), waiting: Arc::clone(&self.waiting) })
    }
}

/// Asks the daemon's loop for one peer.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) peer: PeerInfo,
    pub(super) calls: Calls,
    pub(super) waiting: Arc<Semaphore>,
}

impl Asker {
    pub(super) async fn ask(&self, wanted: Wanted) -> Result<Issued, Status> {
        // First come, first served.
        let _turn =
            self.waiting.acquire().await.map_err(|_closed| Status::unavailable("the daemon is stopping"))?;
        match server::call(&self.calls, self.peer.clone(), Asked::Credential(wanted)).await {
            Ok(Answer::Credential(issued)) => Ok(*issued),
            Ok(_) => Err(Status::internal("another question was answered")),
            Err(refusal) => {
                if !refusal.recorded {
                    let what = format!("asked for credentials: {}", refusal.message);
                    self.calls.tell(Unheard { peer: self.peer.peer.clone(), what }).await;
                }
                Err(status(&refusal))
            }
        }
    }
}

fn status(refusal: &Refusal) -> Status {
    let message = refusal.message.as_str();
    match refusal.status {
        StatusCode::FORBIDDEN => Status::permission_denied(message),
        StatusCode::BAD_REQUEST => Status::invalid_argument(message),
        StatusCode::TOO_MANY_REQUESTS => Status::resource_exhausted(message),
        StatusCode::SERVICE_UNAVAILABLE => Status::unavailable(message),
        _ => Status::internal(message),
    }
}

fn another() -> Status {
    Status::internal("something else was issued")
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Workload {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;
    type FetchWITSVIDStream = Messages<WitsvidResponse>;
    type FetchWITBundlesStream = Messages<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let messages = stream::begin(self.asker(&request)?, Wanted::X509, |issued| {
            let Svid::X509(svid) = &issued.svid else { return Err(another()) };
            let svid = X509svid {
                spiffe_id: issued.id.to_string(),
                x509_svid: svid.certificate.clone(),
                x509_svid_key: svid.key.clone(),
                bundle: issued.lease.bundle.borrow().der(),
                hint: String::new(),
            };
            Ok(X509svidResponse { svids: vec![svid], crl: Vec::new(), federated_bundles: HashMap::new() })
        });
        Ok(Response::new(messages.await?))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let messages = stream::begin(self.asker(&request)?, Wanted::Bundle, |issued| {
            Ok(X509BundlesResponse { crl: Vec::new(), bundles: by_domain(issued, Bundle::der) })
        });
        Ok(Response::new(messages.await?))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let asker = self.asker(&request)?;
        let JwtsvidRequest { audience, spiffe_id } = request.into_inner();
        let Ok([audience]) = <[String; 1]>::try_from(audience) else {
            return Err(Status::invalid_argument(
                "exactly one audience: who gets a token for several can use it as the agent at each of the others",
            ));
        };
        if audience.is_empty() || audience.len() > MAX_AUDIENCE_BYTES {
            return Err(Status::invalid_argument(format!("an audience has 1 to {MAX_AUDIENCE_BYTES} bytes")));
        }
        let id = (!spiffe_id.is_empty()).then_some(spiffe_id);
        let issued = asker.ask(Wanted::Jwt { audience, id }).await?;
        let Svid::Jwt(svid) = issued.svid else { return Err(another()) };
        let svid = Jwtsvid { spiffe_id: issued.id.to_string(), svid: svid.token, hint: String::new() };
        Ok(Response::new(JwtsvidResponse { svids: vec![svid] }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let messages = stream::begin(self.asker(&request)?, Wanted::Bundle, |issued| {
            let write = |bundle: &Bundle| bundle.jwks(TokenKind::Jwt).to_string().into_bytes();
            Ok(JwtBundlesResponse { bundles: by_domain(issued, write) })
        });
        Ok(Response::new(messages.await?))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let asker = self.asker(&request)?;
        let ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        if audience.is_empty() {
            return Err(Status::invalid_argument("for which audience is missing"));
        }
        let issued = asker.ask(Wanted::Bundle).await?;
        let bundle = Arc::clone(&issued.lease.bundle.borrow());
        let expected = Expected { audience: Some(&audience), trust_domain: Some(&bundle.trust_domain) };
        let verified = bundle.keys().verify(&svid, expected, clock::unix_s());
        let verified = verified.map_err(|error| Status::invalid_argument(error.to_string()))?;
        if verified.kind != TokenKind::Jwt {
            return Err(Status::invalid_argument("it is not a JWT-SVID"));
        }
        let Some(Kind::StructValue(claims)) = protobuf(verified.claims).kind else { return Err(another()) };
        let spiffe_id = verified.id.to_string();
        Ok(Response::new(ValidateJwtsvidResponse { spiffe_id, claims: Some(claims) }))
    }

    async fn fetch_witsvid(
        &self,
        request: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        let messages = stream::begin(self.asker(&request)?, Wanted::Wit, |issued| {
            let Svid::Wit(svid) = &issued.svid else { return Err(another()) };
            let svid = Witsvid {
                spiffe_id: issued.id.to_string(),
                wit_svid: svid.token.clone(),
                wit_svid_key: svid.key.clone(),
                hint: String::new(),
            };
            Ok(WitsvidResponse { svids: vec![svid] })
        });
        Ok(Response::new(messages.await?))
    }

    async fn fetch_wit_bundles(
        &self,
        request: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        let messages = stream::begin(self.asker(&request)?, Wanted::Bundle, |issued| {
            let write = |bundle: &Bundle| bundle.jwks(TokenKind::Wit).to_string();
            Ok(WitBundlesResponse { bundles: by_domain(issued, write), more: false })
        });
        Ok(Response::new(messages.await?))
    }
}

fn by_domain<T>(issued: &Issued, write: impl FnOnce(&Bundle) -> T) -> HashMap<String, T> {
    let bundle = issued.lease.bundle.borrow();
    HashMap::from([(bundle.trust_domain.id(), write(&bundle))])
}

/// JSON as protobuf has it.
fn protobuf(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Json::String(value) => Kind::StringValue(value),
        Json::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(protobuf).collect() })
        }
        Json::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (name, protobuf(value))).collect();
            Kind::StructValue(Struct { fields })
        }
    };
    Value { kind: Some(kind) }
}
