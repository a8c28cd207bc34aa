//! Credentials of sessions: who asks, by what the kernel says; what is issued; and when streams end, and authorities change.
//!
//! They are made here, in the loop: whoever revokes a session and has the answer knows that nothing is issued for it any more.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::http::StatusCode;
use enforcer_common::identity::TaskTag;
use ring::rand::SystemRandom;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    Daemon, DaemonError, StartError,
    asker::{Unvouched, vouch},
    internal,
};
use crate::{
    clock,
    control::{
        credential::{Issued, Lease, Standing, Svid, Wanted},
        dto,
        peer::Peer,
        server::Refusal,
    },
    credentials::{
        Authorities, Authority, Bundle, Claims, IssueError, Principal, Root, SpiffeId, SpiffeIdError,
        TokenKind, TrustDomain,
    },
    procfs,
    record::{EventKind, EventLine, LineProcess},
    session::{Session, Status},
    settings::Settings,
    state::{AuthoritiesError, AuthorityFiles},
};

/// Credentials that a session gets between two ticks: far more than it can use.
const ISSUED_A_TICK: u32 = 64;

/// Issues credentials.
pub(super) struct Issuer {
    files: AuthorityFiles,
    authorities: Authorities,
    bundle: watch::Sender<Arc<Bundle>>,
    /// Of sessions that have streams open, or got something since the last tick.
    leases: HashMap<Uuid, SessionLease>,
    random: SystemRandom,
    /// Since the daemon started.
    issued: u64,
    /// Whether another trust domain was in use before.
    is_new_domain: bool,
}

struct SessionLease {
    standing: watch::Sender<Standing>,
    /// Since the last tick.
    issued: u32,
}

impl Issuer {
    /// With the authorities that there are, and one if there was none. Without a trust domain that was asked for, it is the one
    /// that was in use last, or else the host's: a host that is renamed keeps its agents' names.
    /// What changed, in words.
    pub(super) fn open(
        settings: &Settings,
        trust_domain: Option<TrustDomain>,
        host: &str,
    ) -> Result<(Self, Option<String>), StartError> {
        let files = AuthorityFiles::open(&settings.authorities())?;
        let found = files.load()?;
        let kept = files.trust_domain()?;
        // Earlier releases wrote down none.
        let newest = || found.iter().max_by_key(|authority| authority.made_s());
        let trust_domain = trust_domain
            .or_else(|| kept.clone())
            .or_else(|| newest().map(|authority| authority.trust_domain().clone()))
            .unwrap_or_else(|| TrustDomain::of_host(host));
        let is_new_domain = kept.as_ref() != Some(&trust_domain);
        let authorities = Authorities::new(trust_domain, found);
        let bundle = watch::channel(Arc::new(Bundle::of(&authorities))).0;
        let mut issuer = Self {
            files,
            authorities,
            bundle,
            leases: HashMap::new(),
            random: SystemRandom::new(),
            issued: 0,
            is_new_domain,
        };
        // Whoever may sign must be there before anybody asks; the rest has time until the first tick.
        let change = issuer.renew(clock::unix_s())?;
        Ok((issuer, change))
    }

    /// Writes down which trust domain is in use, from when the daemon is up with it.
    pub(super) fn keep_trust_domain(&self) -> Result<(), StartError> {
        if self.is_new_domain {
            self.files.save_trust_domain(self.trust_domain())?;
        }
        Ok(())
    }

    /// Ends all streams, for whoever asks again to find another daemon.
    pub(super) fn end_all(&mut self) {
        self.leases.clear();
    }

    pub(super) const fn trust_domain(&self) -> &TrustDomain {
        self.authorities.trust_domain()
    }

    pub(super) const fn issued(&self) -> u64 {
        self.issued
    }

    /// Makes an authority if one is due. What changed, in words.
    fn renew(&mut self, now_s: i64) -> Result<Option<String>, RotationError> {
        if !self.authorities.is_due(now_s) {
            return Ok(None);
        }
        let authority = Authority::generate(self.authorities.trust_domain(), now_s, &self.random)?;
        // On disk before anybody is told of it.
        self.files.save(&authority)?;
        let (id, trust_domain) = (authority.id(), authority.trust_domain());
        let change = format!("authority {id} of {trust_domain} is in the trust bundle");
        self.authorities.insert(authority);
        self.publish();
        Ok(Some(change))
    }

    /// Takes away an authority that is spent. What changed, in words.
    fn retire(&mut self, now_s: i64) -> Result<Option<String>, RotationError> {
        let Some(id) = self.authorities.spent(now_s).into_iter().next() else { return Ok(None) };
        self.files.remove(&id)?;
        self.authorities.remove(&id);
        self.publish();
        Ok(Some(format!("authority {id} is no longer in the trust bundle: all that it signed has expired")))
    }

    /// Of a session's agent. Nothing where its name cannot be in one.
    pub(super) fn spiffe_id(&self, session: &Session) -> Option<String> {
        spiffe_id(session, self.authorities.trust_domain()).ok().map(|id| id.to_string())
    }

    fn publish(&self) {
        self.bundle.send_replace(Arc::new(Bundle::of(&self.authorities)));
    }

    fn issue(&self, principal: &Principal, wanted: &Wanted, now_s: i64) -> Result<Svid, IssueError> {
        let signer = self.authorities.signer(now_s).ok_or(IssueError::NoAuthority)?;
        Ok(match wanted {
            Wanted::X509 => Svid::X509(signer.x509(principal, now_s, &self.random)?),
            Wanted::Jwt { audience, .. } => {
                Svid::Jwt(signer.jwt(principal, audience, now_s, &self.random)?)
            }
            Wanted::Wit => Svid::Wit(signer.wit(principal, now_s, &self.random)?),
            Wanted::Bundle => Svid::None,
        })
    }
}

/// Why the authorities are as they were.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotationError {
    #[error("make an authority")]
    Make(#[from] IssueError),
    #[error(transparent)]
    Files(#[from] AuthoritiesError),
}

impl Daemon {
    /// What a process of a session asks for about itself.
    pub(super) fn credential(&mut self, peer: &Peer, wanted: &Wanted) -> Result<Issued, Refusal> {
        let id = self.session_of(peer).and_then(|id| {
            let Some(session) = self.registry.get(id) else {
                return Err(Unvouched::No("its session has ended"));
            };
            self.require_active(session).map(|()| id)
        });
        let id = id.map_err(|why| match why {
            Unvouched::TryAgain => Unvouched::try_again(),
            Unvouched::No(why) => self.refuse_credential(peer, wanted, why),
        })?;
        self.issue(peer, id, wanted)
    }

    fn refuse_credential(&mut self, peer: &Peer, wanted: &Wanted, why: &str) -> Refusal {
        self.record_refusal(peer, &format!("asked for {}: {why}", wanted.name()));
        Refusal::new(StatusCode::FORBIDDEN, "no-identity", why)
    }

    /// The session of whoever made the connection and writes on it, by its tag.
    fn session_of(&self, peer: &Peer) -> Result<Uuid, Unvouched> {
        let tag = self.kernel.sessions.tag(peer.pid);
        let started = procfs::start_ticks(peer.pid);
        // Asked last: had it ended before, the number could have been another's.
        vouch(peer)?;
        let (Ok(tag), Ok(Some(started))) = (tag, started) else {
            return Err(Unvouched::No("what session it is in cannot be told"));
        };
        let tag = tag.filter(|TaskTag { start_ns, .. }| start_ns / procfs::TICK_NS == started);
        let Some(tag) = tag else { return Err(Unvouched::No("it is in no session")) };
        let session = self.registry.at(tag.session).ok_or(Unvouched::No("its session has ended"))?;
        Ok(session.grant.id)
    }

    /// A session that the daemon and the kernel both hold for active.
    fn require_active(&self, session: &Session) -> Result<(), Unvouched> {
        let status = self.registry.standing_of(session, clock::boot_ns());
        if status != Status::Active {
            return Err(Unvouched::No(no_longer(status)));
        }
        match self.kernel.sessions.control(session.grant.slot.slot) {
            Ok(word) if word == session.control() => Ok(()),
            _ => Err(Unvouched::No("the kernel does not hold the session for active")),
        }
    }

    fn issue(&mut self, peer: &Peer, id: Uuid, wanted: &Wanted) -> Result<Issued, Refusal> {
        let (now_ns, now_s) = (clock::boot_ns(), clock::unix_s());
        let session = self.registry.get(id).ok_or_else(|| internal(&IssueError::TooLate))?;
        let left_ns = session.grant.expires_ns.saturating_sub(now_ns);
        let expires_s = now_s.saturating_add(i64::try_from(left_ns / 1_000_000_000).unwrap_or(i64::MAX));
        let trust_domain = self.issuer.authorities.trust_domain();
        let executable = session.processes.digest(peer.pid).map(str::to_owned);
        let principal = principal(session, trust_domain, expires_s, &self.host.boot_id, executable);
        let principal = principal.map_err(|error| internal(&error))?;
        if let Wanted::Jwt { id: Some(asked), .. } = wanted
            && *asked != principal.id.to_string()
        {
            let why =
                format!("it is `{}`, and asked for the identity of `{}`", principal.id, printable(asked));
            return Err(self.refuse_credential(peer, wanted, &why));
        }
        let held = Standing::Held { envelope: session.envelope.number };
        let lease = self
            .issuer
            .leases
            .entry(id)
            .or_insert_with(|| SessionLease { standing: watch::channel(held).0, issued: 0 });
        if !matches!(wanted, Wanted::Bundle) {
            if lease.issued >= ISSUED_A_TICK {
                let message = format!("the session had {ISSUED_A_TICK} credentials within a second");
                self.record_refusal(peer, &format!("asked for {}: {message}", wanted.name()));
                return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too-many", message));
            }
            lease.issued += 1;
        }
        let standing = lease.standing.subscribe();
        let svid = self.issuer.issue(&principal, wanted, now_s).map_err(|error| match error {
            IssueError::TooLate => self.refuse_credential(peer, wanted, &error.to_string()),
            _ => internal(&error),
        })?;
        self.record_issued(peer, (id, &principal.id), &svid, wanted);
        // What lasts as long as the session is not renewed.
        let renewed = svid.expires_s().filter(|expires_s| *expires_s < principal.expires_s);
        let renew_in = renewed.map(|expires_s| seconds(expires_s - now_s) / 2);
        let bundle = self.issuer.bundle.subscribe();
        let lease = Lease { standing, bundle, renew_in, ends_in: Duration::from_nanos(left_ns) };
        Ok(Issued { id: principal.id, svid, lease })
    }

    fn record_issued(&mut self, peer: &Peer, (id, name): (Uuid, &SpiffeId), svid: &Svid, wanted: &Wanted) {
        let detail = match (svid, wanted) {
            (Svid::X509(svid), _) => format!("X509-SVID {}", svid.serial),
            (Svid::Jwt(svid), Wanted::Jwt { audience, .. }) => {
                format!("JWT-SVID {} for `{}`", svid.token_id, printable(audience))
            }
            (Svid::Wit(svid), _) => format!("WIT-SVID {}", svid.token_id),
            // Everybody may have it.
            _ => return,
        };
        self.issuer.issued += 1;
        let Some(session) = self.registry.get(id) else { return };
        let comm = procfs::describe(peer.pid).0.unwrap_or_default();
        let mut line =
            EventLine::new(EventKind::CredentialIssued, &clock::wall(clock::boot_ns())).session(session);
        line.process = Some(LineProcess::new(peer.pid, comm, Some(session), &self.host.boot_id));
        self.events.write(line.detail(format!("{detail}, as {name}")));
    }

    /// Tells the streams of sessions that changed. Looked at after whatever happens: so no change can be forgotten.
    pub(super) fn update_leases(&mut self) {
        let now_ns = clock::boot_ns();
        let Self { issuer, registry, .. } = self;
        issuer.leases.retain(|id, lease| {
            let now = match registry.get(*id) {
                None => Standing::Ended("the session has ended"),
                Some(session) => match registry.standing_of(session, now_ns) {
                    Status::Active => Standing::Held { envelope: session.envelope.number },
                    other => Standing::Ended(no_longer(other)),
                },
            };
            lease.standing.send_if_modified(|standing| std::mem::replace(standing, now) != now);
            !matches!(now, Standing::Ended(_))
        });
    }

    /// Once a tick: authorities, and what is to be forgotten of sessions.
    pub(super) fn tend_credentials(&mut self) -> Result<(), DaemonError> {
        self.issuer.leases.retain(|_, lease| {
            lease.issued = 0;
            lease.standing.receiver_count() > 0
        });
        let now_s = clock::unix_s();
        for change in [Issuer::renew, Issuer::retire] {
            if let Some(change) = change(&mut self.issuer, now_s)? {
                self.note(EventKind::AuthorityChanged, change);
            }
        }
        Ok(())
    }

    pub(super) fn trust_bundle(&self) -> dto::TrustBundle {
        let bundle = self.issuer.bundle.borrow();
        dto::TrustBundle {
            version: dto::VERSION,
            trust_domain: bundle.trust_domain.to_string(),
            bundle: bundle.spiffe(),
            certificates: bundle.pem(),
            jwks: bundle.jwks(TokenKind::Jwt),
        }
    }
}

/// What the credentials of a session say of it.
fn principal(
    session: &Session,
    trust_domain: &TrustDomain,
    expires_s: i64,
    boot_id: &str,
    executable_digest: Option<String>,
) -> Result<Principal, SpiffeIdError> {
    let (grant, metadata) = (&session.grant, &session.envelope.envelope.metadata);
    let claims = Claims {
        session: grant.id.to_string(),
        owner: metadata.owner.clone(),
        operator: metadata.operator.clone(),
        model: metadata.model.clone(),
        mode: session.mode().name().to_owned(),
        envelope_digest: session.envelope.digest.clone(),
        envelope_revision: metadata.revision,
        root: Root { tgid: grant.root.tgid, start_ns: grant.root.start_ns, boot_id: boot_id.to_owned() },
        executable_digest,
        parent_session: grant.parent_id().map(|id| id.to_string()),
    };
    Ok(Principal { id: spiffe_id(session, trust_domain)?, claims, expires_s })
}

fn spiffe_id(session: &Session, trust_domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
    let above = session.grant.agents_above().ok_or(SpiffeIdError::Path)?;
    SpiffeId::of_agent(trust_domain, above, session.agent())
}

const fn no_longer(status: Status) -> &'static str {
    match status {
        Status::Active => "the session is active",
        Status::Registering => "the session is not in force yet",
        Status::Expired => "the session is expired",
        Status::Revoked => "the session is revoked",
        Status::Quarantined => "the session is in quarantine",
    }
}

fn seconds(s: i64) -> Duration {
    Duration::from_secs(u64::try_from(s).unwrap_or(0))
}

/// What somebody sent, as it may stand in a line.
fn printable(text: &str) -> String {
    const SHOWN: usize = 200;
    text.chars().take(SHOWN).flat_map(char::escape_default).collect()
}
