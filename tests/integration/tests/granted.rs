//! Users who are no operators: what they may begin is what the registration policy grants them; all else they are refused.

use std::fs;
use std::path::Path;
use std::process::Command;

use integration::{DEADLINE, Daemon, Envelope, Finished, Process, Server, enforcer_path, wait_until};

/// Nobody has these.
const USER: u32 = 54_321;
const OTHER: u32 = 54_322;
const GROUP: u32 = 54_330;

fn run_as(daemon: &Daemon, uid: u32, groups: &str, envelope: &Path, command: &[&str]) -> Process {
    let mut run = daemon.layout().command(&["run", "--envelope"]);
    run.arg(envelope).arg("--").args(command);
    as_user(&mut run, uid, groups)
}

fn as_user(command: &mut Command, uid: u32, groups: &str) -> Process {
    // The kernel asks for the program by its path: this user must get to it.
    let prefix = ["setpriv", "--reuid", &uid.to_string(), "--regid", &uid.to_string(), "--groups", groups];
    Process::spawn(integration::wrap(&prefix, command))
}

fn ask_as(daemon: &Daemon, uid: u32, arguments: &[&str]) -> Finished {
    as_user(&mut daemon.layout().command(arguments), uid, "54321").finish(DEADLINE)
}

fn readable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("it is ours");
}

fn envelope(server: &Server) -> Envelope {
    Envelope::of("granted").allow_server("there", server)
}

/// A daemon with this policy.
fn with_policy(grants: &str) -> Daemon {
    let mut daemon = Daemon::start();
    daemon.kill9();
    let path = daemon.layout().file("policy.yaml");
    let text = format!("apiVersion: enforcer/v1\nkind: RegistrationPolicy\nspec:\n  grants:\n{grants}");
    fs::write(&path, text).expect("the directory is ours");
    readable(&path);
    daemon.restart_with(&["--registration-policy", path.to_str().expect("text")]);
    daemon
}

#[test]
fn who_is_no_operator_begins_what_is_granted_and_operates_nothing() {
    let (server, elsewhere) = (Server::start("tcp", "127.0.0.10"), Server::start("tcp", "127.0.0.20"));
    let directory = tempfile::tempdir().expect("a directory");
    let granted = directory.path().join("granted.yaml");
    fs::write(&granted, envelope(&server).to_string()).expect("it is ours");
    let grants = format!(
        "  - {{name: by-user, users: [{USER}], envelopes: [{path}]}}\n  - {{name: by-group, groups: [{GROUP}], envelopes: [{path}]}}\n",
        path = granted.display()
    );
    let daemon = with_policy(&grants);
    let write = |envelope: &Envelope| {
        let path = daemon.layout().write_envelope(envelope);
        readable(&path);
        path
    };
    let narrow = write(&envelope(&server));
    let connect = |to: &Server| {
        let at = to.address();
        format!("exec 3<>/dev/tcp/{}/{}", at.ip(), at.port())
    };
    // Control: where there is no session, the user reaches both.
    for to in [&server, &elsewhere] {
        let mut free = Command::new("bash");
        free.args(["-c", &connect(to)]);
        as_user(&mut free, USER, "54321").finish(DEADLINE).success();
    }
    let inside =
        |to: &Server| run_as(&daemon, USER, "54321", &narrow, &["bash", "-c", &connect(to)]).finish(DEADLINE);
    inside(&server).success();
    assert!(inside(&elsewhere).stderr.contains("Operation not permitted"), "it is held to its envelope");
    let recorded =
        daemon.wait_for_events(1, "the grant is recorded", |event| event.kind() == "session-granted");
    assert!(recorded[0].text("/detail").contains("`by-user`"), "{recorded:?}");

    // By a group that the user is in besides its own; nobody else.
    run_as(&daemon, OTHER, &GROUP.to_string(), &narrow, &["true"]).finish(DEADLINE).success();
    let nobody = run_as(&daemon, OTHER, "54322", &narrow, &["echo", "ran"]).finish(DEADLINE);
    assert_eq!((nobody.status.code(), &nobody.stdout[..]), (Some(1), &[][..]), "{}", nobody.stderr);
    // Wider than what is granted, or for somebody else.
    let wider = write(&envelope(&server).allow("more", "10.0.0.0/8", "any", "any"));
    let others = write(&envelope(&server).owner("mallory@example.com"));
    for (bad, why) in [(wider, "10.0.0.0/8"), (others, "owner")] {
        let refused = run_as(&daemon, USER, "54321", &bad, &["echo", "ran"]).finish(DEADLINE);
        assert_eq!((refused.status.code(), &refused.stdout[..]), (Some(1), &[][..]), "{}", refused.stderr);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    // Nor does the daemon read for it what is not granted to be read.
    let secret = daemon.layout().file("secret");
    fs::write(&secret, "hunter2").expect("the directory is ours");
    let curious = envelope(&server).exec("any", "deny-egress").file_of(&secret, &"0".repeat(64));
    let curious = write(&curious);
    let refused = run_as(&daemon, USER, "54321", &curious, &["echo", "ran"]).finish(DEADLINE);
    assert_eq!((refused.status.code(), &refused.stdout[..]), (Some(1), &[][..]), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("names the file") && !refused.stderr.contains("digest"),
        "{}",
        refused.stderr
    );
    assert!(!daemon.events().iter().any(|event| event.kind() == "file-measured"), "it was not read");
    // It operates nothing: not even a session of its own.
    let mut own = run_as(&daemon, USER, "54321", &narrow, &["cat"]);
    let id = daemon.session_id("granted");
    let pid = own.pid().to_string();
    let path = narrow.to_str().expect("text").to_owned();
    for arguments in [
        &["status"][..],
        &["ps"],
        &["events"],
        &["show", &id],
        &["why", &id],
        &["chain", &id],
        &["revoke", &id],
        &["quarantine", &id],
        &["apply", &path],
        &["register", "--envelope", &path, "--pid", &pid],
        &["trust-bundle"],
        &["teardown"],
    ] {
        let refused = ask_as(&daemon, USER, arguments);
        assert_ne!(refused.status.code(), Some(0), "{arguments:?}");
        assert!(refused.stdout.is_empty(), "{arguments:?}: {:?}", refused.stdout);
    }
    assert_eq!(daemon.session("granted").expect("it is there")["state"], "active");
    let refused = daemon.wait_for_events(8, "it is recorded", |event| event.kind() == "request-refused");
    assert!(refused.iter().any(|event| event.text("/detail").contains(&format!("uid {USER}"))));
    own.write_line("bye");
    own.finish(DEADLINE).success();
}

/// Who may ask is bound to what they run, by the file and by what is in it.
#[test]
fn a_grant_may_be_for_one_program() {
    let server = Server::start("tcp", "127.0.0.10");
    let directory = tempfile::tempdir().expect("a directory");
    let granted = directory.path().join("granted.yaml");
    fs::write(&granted, envelope(&server).to_string()).expect("it is ours");
    let enforcer = enforcer_path();
    let digest = Command::new("sha256sum").arg(&enforcer).output().expect("it runs").stdout;
    let digest = String::from_utf8(digest).expect("text")[..64].to_owned();
    let refused = |executable: &str| {
        let grants = format!(
            "  - {{name: program, users: [{USER}], executables: [{executable}], envelopes: [{}]}}\n",
            granted.display()
        );
        let daemon = with_policy(&grants);
        let path = daemon.layout().write_envelope(envelope(&server));
        readable(&path);
        let asked = run_as(&daemon, USER, "54321", &path, &["true"]).finish(DEADLINE);
        (asked.status.code() != Some(0)).then_some(asked.stderr)
    };
    let path = enforcer.display();
    assert_eq!(refused(&format!("{{path: {path}}}")), None);
    assert_eq!(refused(&format!("{{path: {path}, sha256: {digest}}}")), None);
    let other = refused("{path: /bin/true}").expect("it is another program");
    assert!(other.contains("executables"), "{other}");
    let changed = digest.replace(['a', '0'], "1");
    refused(&format!("{{path: {path}, sha256: {changed}}}")).expect("it is not what was granted");
}

/// A process of a session hands on what it has, whoever it runs as.
#[test]
fn a_session_of_any_user_hands_on_a_part() {
    let daemon = Daemon::start();
    let server = Server::start("tcp", "127.0.0.10");
    let inner = daemon.layout().write_envelope(Envelope::of("inner").allow_server("there", &server));
    readable(&inner);
    let mut run = daemon.layout().command(&["run", "--user", "nobody", "--envelope"]);
    run.arg(daemon.layout().write_envelope(Envelope::of("outer").allow_server("there", &server)));
    run.arg("--").arg(enforcer_path()).args(["run", "--envelope"]).arg(&inner).args(["--", "cat"]);
    let mut process = Process::spawn(run);
    let below = wait_until(DEADLINE, "the sub-session is listed", || daemon.session("inner"));
    assert!(below["parent"].is_string(), "{below}");
    assert_eq!(below["registered_by_uid"], 65_534);
    process.write_line("bye");
    process.finish(DEADLINE).success();
}

/// A policy that others could have written, or that does not hold as it is written, is none: the daemon does not come up.
#[test]
fn a_policy_that_cannot_be_kept_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let layout = integration::Layout::new();
    let path = layout.file("policy.yaml");
    let start = |text: &str, mode: u32| {
        fs::write(&path, text).expect("the directory is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
        layout.outcome(&["daemon", "--registration-policy", path.to_str().expect("text")])
    };
    let head = "apiVersion: enforcer/v1\nkind: RegistrationPolicy\nspec:\n  grants:\n";
    for (text, mode, why) in [
        (format!("{head}  - {{name: a, users: [1], envelopes: [/no/such]}}\n"), 0o644, "/no/such"),
        (format!("{head}  - {{name: a, users: [no-such-user], envelopes: [/x]}}\n"), 0o644, "/x"),
        (format!("{head}  - {{name: a, envelopes: [/x]}}\n"), 0o644, "names nobody"),
        (format!("{head}  []\n"), 0o666, "mode"),
    ] {
        let outcome = start(&text, mode);
        assert_eq!(outcome.status.code(), Some(2), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(why), "{}", outcome.stderr);
    }
}
