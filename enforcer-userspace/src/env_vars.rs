//! Every environment variable that enforcer reads or sets.

/// Where sessions and events are kept.
pub(crate) const STATE_DIR: &str = "ENFORCER_STATE_DIR";
/// Where the control socket is.
pub(crate) const RUN_DIR: &str = "ENFORCER_RUN_DIR";
/// Where kernel objects are pinned.
pub(crate) const PIN_DIR: &str = "ENFORCER_PIN_DIR";
/// The name of the sessions' parent cgroup.
pub(crate) const CGROUP: &str = "ENFORCER_CGROUP";
/// The group that may operate the daemon.
pub(crate) const GROUP: &str = "ENFORCER_GROUP";
/// The keys whose holders may sign envelopes: files, with `:` between them.
pub(crate) const TRUST_KEYS: &str = "ENFORCER_TRUST_KEYS";
/// The trust domain of the daemon's credentials.
pub(crate) const TRUST_DOMAIN: &str = "ENFORCER_TRUST_DOMAIN";
/// Which users who are no operators may begin sessions, and under which envelopes.
pub(crate) const REGISTRATION_POLICY: &str = "ENFORCER_REGISTRATION_POLICY";
/// Where events go beside the event file.
pub(crate) const SINKS: &str = "ENFORCER_SINKS";
/// Which detections there are, and when each is one.
pub(crate) const DETECTIONS: &str = "ENFORCER_DETECTIONS";
/// Where metrics are served, on a loopback address.
pub(crate) const METRICS_LISTEN: &str = "ENFORCER_METRICS_LISTEN";
/// Set by `run` for the command: where SPIFFE's libraries get credentials.
pub(crate) const SPIFFE_ENDPOINT: &str = "SPIFFE_ENDPOINT_SOCKET";
/// Set by `run` for the command: the session's id.
pub(crate) const SESSION: &str = "ENFORCER_SESSION";
