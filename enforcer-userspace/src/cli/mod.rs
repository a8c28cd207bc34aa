//! The command line: argument types, whose comments are the help text, and one file per command.

mod apply;
mod audit;
mod chain;
mod check;
mod daemon;
mod diff;
mod doctor;
mod events;
mod excess;
mod explain;
mod export;
mod includes;
mod intersect;
mod keygen;
mod own;
mod particulars;
mod ps;
mod register;
mod revoke;
mod run;
mod said;
mod sign;
mod sink;
mod status;
mod teardown;
mod text;
mod trust_bundle;
mod verify_token;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    control::client::{Client, ClientError},
    envelope::{self, Envelope},
    exit::{ExitStatus, Failure},
    settings::Settings,
};

/// Gives AI agents an identity in the kernel, and holds them to a declared envelope
#[derive(Debug, Parser)]
#[command(name = "enforcer", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    settings: Settings,
    /// How answers are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs: carries a version
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command as an agent's session, held to an envelope
    ///
    /// The command is executed only once the kernel holds it. It keeps this process's id, so its exit code and signals are
    /// its own. Exit code 127: no such command; 126: it cannot be executed.
    Run(run::Args),
    /// Hold what runs already to an envelope, as a session
    ///
    /// Its processes stand still meanwhile. The answer says how complete it is, and why if it is not.
    Register(register::Args),
    /// List sessions and their processes
    Ps(ps::Args),
    /// Say all that is known of a session, also of one that has ended
    Show(ps::ShowArgs),
    /// Say which session this is, from inside one
    Whoami,
    /// Say what was refused last, why, and what can be done about it, from inside a session
    Why(own::WhyArgs),
    /// Say who gave a session what it may do, hop by hop, and check the signatures
    ///
    /// Exit code 0: all of it is to be believed; 1: it is not, or something could not be read.
    Chain(chain::Args),
    /// Print what happened: decisions, processes, sessions
    Events(events::Args),
    /// Check, search and prove what happened, by the audit log
    Audit(audit::Args),
    /// Say how the daemon is, and which hooks are in place
    Status,
    /// Refuse everything to a session from now on, and cut its connections
    ///
    /// Exit code 0: nothing is left open; 1: there is no such session, or a socket could not be destroyed.
    Revoke(revoke::Args),
    /// Refuse everything to a session, cut its connections and freeze its processes, to look at them
    ///
    /// It stays so, whatever envelope is applied and however often the daemon starts, until somebody lifts it.
    Quarantine(revoke::QuarantineArgs),
    /// Hold every running session of an envelope's agent to it from now on
    ///
    /// A decision is taken by the old envelope or by the new one, never by a mixture. A session keeps its expiry. Sessions
    /// with another owner, operator or model are left as they are, and named.
    Apply(apply::Args),
    /// Check an envelope; needs neither root nor a daemon
    Check(check::Args),
    /// Make a key that signs envelopes; needs neither root nor a daemon
    ///
    /// Nothing is overwritten. The private half is readable for its user alone; the public half is what `daemon` trusts.
    Keygen(keygen::Args),
    /// Sign an envelope; needs neither root nor a daemon
    ///
    /// The signature is written beside it, with `.sig` after its name. A change of one byte makes it worthless.
    Sign(sign::SignArgs),
    /// Check an envelope's signature; needs neither root nor a daemon
    Verify(sign::VerifyArgs),
    /// Print what others need to check the credentials of agents: CA certificates, as PEM
    ///
    /// With `--format json` all of it, as a SPIFFE bundle.
    TrustBundle(trust_bundle::Args),
    /// Check an agent's token, a JWT-SVID or WIT-SVID; needs neither root nor a daemon
    ///
    /// Signature, expiry and form are checked. Exit code 0: it is good; 1: it is not, or something could not be read.
    VerifyToken(verify_token::Args),
    /// Try a place that events go to
    #[command(subcommand)]
    Sink(sink::Command),
    /// Print the JSON Schema of envelopes, for editors
    Schema,
    /// Say what an envelope allows or denies, and why; needs neither root nor a daemon
    Explain(explain::Args),
    /// Say what envelope B allows more and less than A; needs neither root nor a daemon
    ///
    /// What they let through is compared, not how they are written, and not who they are for. `+` is what B allows more, `-`
    /// what it allows less. Exit code 0: they allow the same; 1: they differ; 2: one of them is bad.
    Diff(diff::Args),
    /// Say whether an envelope allows nothing that another does not; needs neither root nor a daemon
    ///
    /// Exit code 0: it does not; 1: it does, and what is printed; 2: one of them is bad.
    Includes(includes::Args),
    /// Print the envelope that allows what two others both allow; needs neither root nor a daemon
    ///
    /// Limits and time to live are the stricter ones. Metadata and, where possible, the names of rules are those of B.
    Intersect(intersect::Args),
    /// Say what this host offers, hook by hook
    Doctor(doctor::Args),
    /// Run the daemon, in the foreground
    ///
    /// When it stops, however it stops, the kernel goes on enforcing. A new daemon takes over.
    Daemon(daemon::Args),
    /// End enforcement: release every session and remove all that enforcer made
    ///
    /// Which revisions of signed envelopes were accepted stays, so that earlier ones are refused afterwards, too.
    Teardown(teardown::Args),
}

/// Does what was asked.
pub(crate) fn execute(cli: Cli) -> Result<ExitStatus, Failure> {
    let Cli { settings, format, command } = cli;
    match command {
        Command::Run(args) => run::execute(&settings, &args),
        Command::Register(args) => register::execute(&settings, format, &args),
        Command::Ps(args) => ps::execute(&settings, format, &args),
        Command::Show(args) => ps::show(&settings, format, &args),
        Command::Whoami => own::whoami(&settings, format),
        Command::Chain(args) => chain::execute(&settings, format, &args),
        Command::Why(args) => own::why(&settings, format, &args),
        Command::Events(args) => events::execute(&settings, format, &args),
        Command::Audit(args) => audit::execute(&settings, format, &args),
        Command::Status => status::execute(&settings, format),
        Command::Revoke(args) => revoke::execute(&settings, format, &args),
        Command::Quarantine(args) => revoke::quarantine(&settings, format, &args),
        Command::Apply(args) => apply::execute(&settings, format, &args),
        Command::Check(args) => check::execute(format, &args),
        Command::Keygen(args) => keygen::execute(format, &args),
        Command::Sign(args) => sign::sign(format, &args),
        Command::Verify(args) => sign::verify(format, &args),
        Command::TrustBundle(args) => trust_bundle::execute(&settings, format, &args),
        Command::VerifyToken(args) => verify_token::execute(format, &args),
        Command::Sink(command) => sink::execute(format, &command),
        Command::Schema => print_json(&envelope::schema()).map(|()| ExitStatus::Ok),
        Command::Explain(args) => explain::execute(format, &args),
        Command::Diff(args) => diff::execute(format, &args),
        Command::Includes(args) => includes::execute(format, &args),
        Command::Intersect(args) => intersect::execute(format, &args),
        Command::Doctor(args) => doctor::execute(&settings, format, &args),
        Command::Daemon(args) => daemon::execute(settings, &args),
        Command::Teardown(args) => teardown::execute(&settings, format, &args),
    }
}

/// Asks the daemon something.
fn ask<T, F>(settings: &Settings, question: impl FnOnce(Client) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let answer = runtime.block_on(question(Client::new(&settings.socket())));
    answer.map_err(client_failure)
}

fn client_failure(error: ClientError) -> Failure {
    let (status, hint) = match &error {
        ClientError::NotRunning { .. } => {
            (ExitStatus::No, Some("start it as root: `enforcer daemon`".to_owned()))
        }
        ClientError::Permission { .. } => {
            (ExitStatus::Error, Some("root and members of the daemon's group may use it".to_owned()))
        }
        ClientError::Refused { status, hint, .. } if status.is_client_error() => {
            (ExitStatus::No, hint.clone())
        }
        ClientError::Refused { hint, .. } => (ExitStatus::Error, hint.clone()),
        ClientError::Connect { .. } | ClientError::Http(_) | ClientError::Answer(_) => {
            (ExitStatus::Error, None)
        }
    };
    Failure { status, error: error.into(), hint }
}

/// An id goes into a path: anything but the characters of one cannot be one.
fn id_in_path(id: &str) -> Result<&str, Failure> {
    if !id.is_empty() && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
        return Ok(id);
    }
    let error = anyhow::anyhow!("`{}` is not a session id", text::harmless(id));
    Err(Failure { status: ExitStatus::Error, error, hint: Some("`enforcer ps` lists the sessions".into()) })
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    text::print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// The text and the envelope in a file's bytes. `None`: there is none, and what is wrong was said.
fn parse_envelope(file: &Path, bytes: Vec<u8>) -> Option<(String, Envelope)> {
    let read = envelope::decode(bytes).and_then(|text| {
        let envelope = envelope::parse(&text)?;
        Ok((text, envelope))
    });
    read.inspect_err(|diagnostics| eprint!("{}", check::complaint(file, diagnostics))).ok()
}

/// Reads an envelope's file.
fn read_envelope(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        let what = anyhow::Error::from(error).context(format!("read the envelope `{}`", path.display()));
        Failure { status: ExitStatus::No, error: what, hint: None }
    })
}
