//! Programs of a test's own, to be executed in sessions that are held to a list.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::{DEADLINE, Daemon, Envelope, Process, attempts, probe, wait_until};

/// A copy of the probe.
#[derive(Clone, Debug)]
pub struct Tool(PathBuf);

impl Tool {
    /// One at this path.
    #[track_caller]
    pub fn at(path: PathBuf) -> Self {
        let [probe] = <[String; 1]>::try_from(probe::<&str>(&[])).expect("the program, without arguments");
        system(&["cp", &probe, path.to_str().expect("the path is text")]);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let tool = Self(path);
        tool.settle();
        tool
    }

    /// A script at this path, whose interpreter is a tool: see [`Tool::talks`].
    #[track_caller]
    pub fn script(path: PathBuf, interpreter: &Self) -> Self {
        write_elsewhere(&path, &format!("#!{} net\n", interpreter.0.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let script = Self(path);
        script.settle();
        script
    }

    /// One that is there.
    pub fn existing(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// As an argument.
    #[track_caller]
    pub fn text(&self) -> &str {
        self.0.to_str().expect("the path is text")
    }

    #[track_caller]
    pub fn sha256(&self) -> String {
        sha256(&self.0)
    }

    /// Waits until what it is told by is its content's alone: what changed a moment ago is measured at each exec.
    #[track_caller]
    pub fn settle(&self) {
        wait_until(DEADLINE, "the file is some moments old", || {
            let metadata = fs::metadata(&self.0).expect("it is there");
            let changed = Duration::new(metadata.ctime().unsigned_abs(), metadata.ctime_nsec() as u32);
            let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed);
            age.is_ok_and(|age| age > Duration::from_millis(150)).then_some(())
        });
    }

    /// A command line that makes one attempt as its first act.
    #[track_caller]
    pub fn attempt<'a>(&'a self, magic: &'a str, spec: &'a str) -> [&'a str; 4] {
        [self.text(), "net", magic, spec]
    }

    /// Whether it reaches the far side in a session of its own, as its first act; otherwise it is refused.
    #[track_caller]
    pub fn reaches(&self, daemon: &Daemon, envelope: &Envelope, magic: &str, spec: &str) -> bool {
        let lines = daemon.run(envelope, &self.attempt(magic, spec)).finish(DEADLINE).success();
        let [attempt] = &attempts(&lines)[..] else { panic!("one attempt: {lines:?}") };
        attempt.succeeded()
    }

    /// Whether a process that runs one as [`Tool::attempt`] without an attempt, or a script, reaches the far side.
    #[track_caller]
    pub fn talks(process: &mut Process, spec: &str) -> bool {
        process.write_line(spec);
        let line = process.read_line(DEADLINE);
        attempts(&[line]).first().expect("one attempt").succeeded()
    }
}

/// Writes a file in another process. Open for writing in this one, it would be so for a moment longer in every child that another thread
/// is just making; and what somebody can write to is neither executed nor measured.
#[track_caller]
pub fn write_elsewhere(path: &Path, text: &str) {
    let path = path.to_str().expect("the path is text");
    system(&["sh", "-c", "printf %s \"$2\" > \"$1\"", "sh", path, text]);
}

/// The digest of a file, by another program than ours.
#[track_caller]
pub fn sha256(path: &Path) -> String {
    let line = system(&["sha256sum", path.to_str().expect("the path is text")]);
    line.split(' ').next().expect("the digest is the first word").to_owned()
}

/// Runs a program of the system's that has to succeed; what it writes.
#[track_caller]
pub fn system(command: &[&str]) -> String {
    let (program, arguments) = command.split_first().expect("a command has a program");
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is text")
}

/// Whether a file is on a file system of which it is known that every first write gives it another time: only there is it known again.
#[track_caller]
pub fn notes_all_writes(path: &Path) -> bool {
    use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, statfs};
    let kind = statfs(path).expect("it is there").filesystem_type();
    [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC].contains(&kind)
}
