//! Where an instance of enforcer keeps its things. Arguments win over the environment, the environment over the default.

use std::path::PathBuf;

use crate::env_vars;

/// The places and names of one instance.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Instance")]
pub(crate) struct Settings {
    /// Where sessions and events are kept
    #[arg(long, global = true, value_name = "DIR", env = env_vars::STATE_DIR, default_value = "/var/lib/enforcer")]
    pub(crate) state_dir: PathBuf,
    /// Where the control socket is
    #[arg(long, global = true, value_name = "DIR", env = env_vars::RUN_DIR, default_value = "/run/enforcer")]
    pub(crate) run_dir: PathBuf,
    /// Where kernel objects are pinned, on a BPF file system
    #[arg(long, global = true, value_name = "DIR", env = env_vars::PIN_DIR, default_value = "/sys/fs/bpf/enforcer")]
    pub(crate) pin_dir: PathBuf,
    /// The parent cgroup of the sessions, below the root of cgroup v2
    #[arg(id = "cgroup_parent", long = "cgroup-parent", global = true, value_name = "NAME", env = env_vars::CGROUP, default_value = "enforcer", value_parser = cgroup_name)]
    pub(crate) cgroup: String,
    /// The group that may operate the daemon; root only, if there is no such group
    #[arg(long, global = true, value_name = "NAME", env = env_vars::GROUP, default_value = "enforcer")]
    pub(crate) group: String,
}

impl Settings {
    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// Where processes of sessions get their credentials.
    pub(crate) fn workload_socket(&self) -> PathBuf {
        self.run_dir.join("workload.sock")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.run_dir.join("daemon.lock")
    }

    pub(crate) fn sessions(&self) -> PathBuf {
        self.state_dir.join("sessions")
    }

    /// Which revisions of signed envelopes were accepted.
    pub(crate) fn revisions(&self) -> PathBuf {
        self.state_dir.join("revisions")
    }

    /// The keys that sign credentials.
    pub(crate) fn authorities(&self) -> PathBuf {
        self.state_dir.join("authorities")
    }

    /// Sessions that have ended.
    pub(crate) fn ended(&self) -> PathBuf {
        self.state_dir.join("ended.jsonl")
    }

    /// The key that signs what sessions are given.
    pub(crate) fn grant_key(&self) -> PathBuf {
        self.state_dir.join("grants.key")
    }

    /// What agents have executed and reached so far.
    pub(crate) fn baselines(&self) -> PathBuf {
        self.state_dir.join("baselines")
    }

    /// Up to where each sink has sent the events.
    pub(crate) fn cursors(&self) -> PathBuf {
        self.state_dir.join("sinks")
    }

    /// The audit log; its key and where it ends are beside it.
    pub(crate) fn audit(&self) -> PathBuf {
        self.state_dir.join("audit")
    }

    pub(crate) fn events(&self) -> PathBuf {
        self.state_dir.join("events.jsonl")
    }
}

/// One component: the programs look at one fixed depth.
fn cgroup_name(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err("a name of letters, digits, `-`, `_` and `.`, not starting with `.`".to_owned());
    }
    Ok(name.to_owned())
}
