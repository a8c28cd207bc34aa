//! `enforcer run`: enrol this process, then become the command.

use std::{
    ffi::OsString,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::{AccessFlags, User, access};

use super::{ask, parse_envelope, read_envelope, said::SaidArgs};
use crate::{
    confinement::{self, Confinement, ConfinementError, Scopes},
    control::dto,
    env_vars,
    envelope::Envelope,
    exit::{ExitStatus, Failure},
    key_files, privilege,
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The envelope that the session is held to; a signature beside it, with `.sig` after its name, is sent along
    #[arg(long, value_name = "FILE")]
    envelope: PathBuf,
    /// Run the command as this user, by name or number; needs root
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// From inside a session: where the envelope allows more than the session may do, take what both allow, and do not refuse it
    #[arg(long)]
    clip: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    said: SaidArgs,
}

/// Returns only if the command was not executed.
pub(super) fn execute(settings: &Settings, args: &Args) -> Result<ExitStatus, Failure> {
    // Everything that can be known before is checked before: what is enrolled is executed.
    let Some((text, envelope)) = parse_envelope(&args.envelope, read_envelope(&args.envelope)?) else {
        return Ok(ExitStatus::No);
    };
    let signature = key_files::signature_of(&args.envelope)?;
    let user = args.user.as_deref().map(privilege::find_user).transpose()?;
    if user.is_some() && !nix::unistd::geteuid().is_root() {
        let error = anyhow::anyhow!("`--user` needs root");
        return Err(Failure { status: ExitStatus::Error, error, hint: None });
    }
    let program = find_program(&args.command[0])?;
    privilege::check_streams(&settings.socket()).map_err(|error| {
        Failure::new(ExitStatus::Error, error).hint("redirect it, for example with `< /dev/null` or `| cat`")
    })?;
    let confinement = Confinement::prepare(Scopes { abstract_unix: envelope.bars_abstract_unix() });
    let confinement = confinement.map_err(unconfined)?;

    let request = dto::Enrol {
        envelope: text,
        signature,
        command: args.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        clip: args.clip,
        said: args.said.said(),
    };
    let enrolled: dto::Enrolled = ask(settings, async |client| client.post("/v1/sessions", &request).await)?;

    if let Some(gap) = confinement.gap() {
        eprintln!("warning: {gap}");
    }
    // From here on a failure ends this process, and with it the session: the command is not executed.
    drop_privileges(user.as_ref(), confinement)?;
    let mut command = Command::new(&program);
    command.arg0(&args.command[0]).args(&args.command[1..]).env(env_vars::SESSION, &enrolled.id);
    if let Some(endpoint) = workload_endpoint(settings, &envelope)? {
        command.env(env_vars::SPIFFE_ENDPOINT, endpoint);
    }
    if let Some(user) = &user {
        command
            .env("HOME", &user.dir)
            .env("USER", &user.name)
            .env("LOGNAME", &user.name)
            .env("SHELL", &user.shell);
    }
    let error = command.exec();
    let status = if error.kind() == std::io::ErrorKind::NotFound {
        ExitStatus::NotFound
    } else {
        ExitStatus::NotExecutable
    };
    let error = anyhow::Error::from(error).context(format!("execute `{}`", program.display()));
    Err(Failure { status, error, hint: None })
}

/// Where the command gets credentials, unless its envelope keeps it from there.
fn workload_endpoint(settings: &Settings, envelope: &Envelope) -> Result<Option<String>, Failure> {
    let socket = std::path::absolute(settings.workload_socket())?;
    // Where a path is not text, no rule and no variable can name it.
    let endpoint = socket.to_str().filter(|socket| envelope.lets_reach_unix(socket));
    Ok(endpoint.map(|socket| format!("unix://{socket}")))
}

/// In this order: each step takes away what the ones before it need.
fn drop_privileges(user: Option<&User>, confinement: Confinement) -> Result<(), Failure> {
    privilege::close_inherited()?;
    confinement::limit_bounding().map_err(unconfined)?;
    if let Some(user) = user {
        privilege::become_user(user)?;
    }
    confinement::limit_own().map_err(unconfined)?;
    privilege::no_new_privileges()?;
    confinement.enter().map_err(unconfined)
}

fn unconfined(error: ConfinementError) -> Failure {
    let status = match error {
        ConfinementError::NoSeccomp => ExitStatus::Unsupported,
        _ => ExitStatus::Error,
    };
    let failure = Failure::new(status, error);
    if status == ExitStatus::Unsupported {
        failure
            .hint("boot a kernel with CONFIG_SECCOMP_FILTER=y; `enforcer doctor` shows what else is needed")
    } else {
        failure
    }
}

/// The file that a shell would execute for this word.
fn find_program(word: &OsString) -> Result<PathBuf, Failure> {
    let candidates: Vec<PathBuf> = if word.as_bytes().contains(&b'/') {
        vec![PathBuf::from(word)]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
        std::env::split_paths(&path).map(|dir| dir.join(word)).collect()
    };
    let is_file = |path: &&PathBuf| path.is_file();
    let executable = |path: &&PathBuf| access(path.as_path(), AccessFlags::X_OK).is_ok();
    if let Some(found) = candidates.iter().filter(is_file).find(executable) {
        return Ok(found.clone());
    }
    let exists = candidates.iter().find(|path| path.exists());
    let shown = Path::new(word).display();
    let (status, error) = match exists {
        Some(path) => (ExitStatus::NotExecutable, anyhow::anyhow!("`{}` cannot be executed", path.display())),
        None => (ExitStatus::NotFound, anyhow::anyhow!("there is no command `{shown}`")),
    };
    Err(Failure { status, error, hint: None })
}
