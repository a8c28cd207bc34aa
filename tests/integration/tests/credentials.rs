//! Credentials: what processes of sessions get over the SPIFFE Workload API, by libraries that are not ours, and that nobody else
//! gets anything.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use integration::{
    DEADLINE, Daemon, Envelope, Finished, LOAD_DEADLINE, Layout, Process, sha256, spiffe_client,
    spiffe_python, wait_until,
};
use serde_json::Value;

/// What `fetch` says in a session of the agent.
#[track_caller]
fn fetch(daemon: &Daemon, agent: &str) -> Value {
    let another = "spiffe://example.org/agent/another";
    let lines = daemon
        .run(&Envelope::of(agent).revision(7), &spiffe_client(&["fetch", another]))
        .finish(LOAD_DEADLINE);
    let lines = lines.success();
    serde_json::from_str(&lines.join("\n")).unwrap_or_else(|error| panic!("{error}: {lines:?}"))
}

fn daemon_of(domain: &str) -> Daemon {
    let mut daemon = Daemon::start();
    // What was made for the host's name is not of this domain.
    daemon.stop();
    daemon.restart_with(&["--trust-domain", domain]);
    daemon
}

/// Checks a token with a library that is not ours.
fn verify(layout: &Layout, jwks: &Value, token: &str, audience: &[&str]) -> Finished {
    let file = layout.file("keys.json");
    fs::write(&file, jwks.to_string()).expect("the directory is ours");
    let mut command = Command::new(spiffe_python());
    command.args(["-c", include_str!("credentials/verify.py")]).arg(file).arg(token).args(audience);
    Process::spawn(command).finish(LOAD_DEADLINE)
}

#[track_caller]
fn json(finished: Finished) -> Value {
    serde_json::from_str(&finished.success().join("\n")).expect("it is JSON")
}

#[track_caller]
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

#[test]
fn a_session_s_credentials_are_verified_by_others() {
    let daemon = daemon_of("example.org");
    let layout = daemon.layout();
    let agent = "spiffe://example.org/agent/agent";
    let got = fetch(&daemon, "agent");
    for kind in ["x509", "jwt", "validated"] {
        assert_eq!(got[kind], agent, "{kind}");
    }
    for (what, why) in [
        ("other audience", "audience"),
        ("altered", "signature"),
        ("two audiences", "exactly one audience"),
        ("another's", "PERMISSION_DENIED"),
        ("no header", "INVALID_ARGUMENT"),
    ] {
        let refused = got["refused"][what].as_str().expect("it is there");
        assert!(refused.contains(why), "{what}: {refused}");
    }

    // The token, by a library for JWT, with the keys as the operator gets them.
    let jwks = json(layout.outcome(&["trust-bundle", "--jwks"]));
    let token = text(&got, "token");
    let said = json(verify(layout, &jwks, token, &["reports"]));
    assert_eq!(said["header"].as_object().expect("an object").len(), 3, "{said}");
    let claims = &said["claims"];
    assert_eq!((text(claims, "sub"), text(claims, "aud")), (agent, "reports"));
    let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert!((300..=900).contains(&life), "{life} s");
    let ours = &claims["enforcer"];
    assert_eq!(text(ours, "owner"), Envelope::OWNER);
    assert_eq!(
        (text(ours, "operator"), text(ours, "model"), text(ours, "mode")),
        ("tests", "none", "enforce")
    );
    assert_eq!(ours["envelope_revision"], 7);
    let started =
        daemon.wait_for_events(1, "the session is recorded", |event| event.kind() == "session-started");
    assert_eq!(text(ours, "session"), started[0].text("/session/id"));
    assert_eq!(text(ours, "envelope_digest"), started[0].text("/session/envelope_digest"));
    assert!(!verify(layout, &jwks, token, &["payroll"]).status.success(), "control: another audience");
    assert!(
        !verify(layout, &jwks, &format!("{}AAAA", &token[..token.len() - 4]), &["reports"]).status.success()
    );

    // The same of the WIT-SVID, which names the key that came with it.
    let wit = json(verify(layout, &got["wit_bundle"], text(&got, "wit"), &[]));
    assert_eq!((&wit["header"]["typ"], text(&wit["claims"], "sub")), (&Value::from("wit+jwt"), agent));
    assert_eq!(wit["claims"]["cnf"]["jwk"]["x"], got["wit_key"]["x"]);
    assert!(!verify(layout, &jwks, text(&got, "wit"), &[]).status.success(), "its keys sign nothing else");

    // The certificate, by openssl.
    let [ca, leaf] = ["ca.pem", "leaf.pem"].map(|name| layout.file(name));
    fs::write(&ca, layout.outcome(&["trust-bundle"]).success().join("\n")).expect("the directory is ours");
    fs::write(&leaf, text(&got, "leaf")).expect("the directory is ours");
    let mut openssl = Command::new("openssl");
    openssl.args(["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile"]).arg(&ca).arg(&leaf);
    Process::spawn(openssl).finish(DEADLINE).success();

    // Each is recorded, and so is that somebody asked for another's.
    let issued = daemon.wait_for_events(3, "they are recorded", |event| event.kind() == "credential-issued");
    assert!(issued.iter().all(|event| event.is_of("agent") && event.pid().is_some()), "{issued:?}");
    let jti = text(claims, "jti");
    assert!(issued.iter().any(|event| event.text("/detail").contains(jti)), "{issued:?}");
    let refused = daemon.wait_for_events(1, "it is recorded", |event| event.kind() == "request-refused");
    assert!(refused[0].text("/detail").contains("agent/another"), "{refused:?}");
}

#[test]
fn a_token_names_what_was_measured() {
    let daemon = daemon_of("example.org");
    let layout = daemon.layout();
    let python = fs::canonicalize(spiffe_python()).expect("it is there");
    let envelope = Envelope::of("agent").exec("listed", "deny-egress").image(&python);
    for (envelope, expect) in [(Envelope::of("agent"), None), (envelope, Some(sha256(&python)))] {
        let lines = daemon.run(&envelope, &spiffe_client(&["fetch", "spiffe://example.org/agent/another"]));
        let lines = lines.finish(LOAD_DEADLINE).success();
        let got: Value = serde_json::from_str(&lines.join("\n")).expect("it is JSON");
        let jwks = json(layout.outcome(&["trust-bundle", "--jwks"]));
        let said = json(verify(layout, &jwks, text(&got, "token"), &["reports"]));
        let digest = said["claims"]["enforcer"]["executable_digest"].as_str().map(str::to_owned);
        assert_eq!(digest, expect);
    }
}

#[test]
fn the_command_line_says_what_a_token_is() {
    let daemon = daemon_of("example.org");
    let layout = daemon.layout();
    let got = fetch(&daemon, "agent");
    let [bundle, jwks, token, wit] =
        ["bundle.json", "jwks.json", "token", "wit"].map(|name| layout.file(name));
    let save = |path: &Path, text: &str| fs::write(path, text).expect("the directory is ours");
    save(&bundle, &layout.outcome(&["trust-bundle", "--format", "json"]).success().join("\n"));
    save(&jwks, &layout.outcome(&["trust-bundle", "--jwks"]).success().join("\n"));
    save(&token, text(&got, "token"));
    save(&wit, &format!("{}\n", text(&got, "wit")));
    // It needs no daemon.
    daemon.wait_idle();
    drop(got);
    let verify = |keys: &Path, token: &Path, more: &[&str]| {
        let paths = [keys, token].map(|path| path.to_str().expect("the path is text"));
        layout.outcome(&[&["verify-token", "--bundle", paths[0], paths[1]], more].concat())
    };
    for keys in [&bundle, &jwks] {
        let said =
            verify(keys, &token, &["--audience", "reports", "--trust-domain", "example.org"]).success();
        assert!(said.contains(&"agent     spiffe://example.org/agent/agent".to_owned()), "{said:?}");
        assert!(said.contains(&"audience  reports".to_owned()), "{said:?}");
        assert!(said.contains(&format!("owner     {}", Envelope::OWNER)), "{said:?}");
    }
    let unchecked = json(verify(&bundle, &token, &["--format", "json"]));
    assert_eq!((&unchecked["version"], &unchecked["audience_checked"]), (&1.into(), &false.into()));
    assert_eq!(json(verify(&bundle, &wit, &["--format", "json"]))["kind"], "WIT-SVID");
    for (keys, token, more, why) in [
        (&bundle, &token, &["--audience", "payroll"][..], "audience"),
        (&bundle, &token, &["--trust-domain", "other.org"], "trust domain"),
        (&jwks, &wit, &[], "no key of the bundle"),
        (&bundle, &bundle, &[], "JWS"),
        (&token, &token, &[], "not JSON"),
    ] {
        let refused = verify(keys, token, more);
        assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
        assert!(refused.stderr.contains(why) && refused.stdout.is_empty(), "{}", refused.stderr);
    }
}

#[test]
fn rust_s_library_fetches_follows_and_is_refused() {
    let daemon = daemon_of("example.org");
    let command = [env!("CARGO_BIN_EXE_spiffe_client").to_owned()];
    let mut inside = daemon.run(&Envelope::of("rust"), &command);
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line| line != "open") {
        lines.push(inside.read_line(DEADLINE));
    }
    assert_eq!(
        lines,
        [
            "x509 spiffe://example.org/agent/rust",
            "authorities 1",
            "jwt spiffe://example.org/agent/rust for [\"reports\"]",
            "validated spiffe://example.org/agent/rust",
            "key true",
            "open",
        ]
    );
    daemon.layout().outcome(&["revoke", &daemon.session_id("rust")]).success();
    let ended = inside.read_line(DEADLINE);
    assert!(ended.starts_with("ended ") && ended.contains("the session is revoked"), "{ended}");
    let again = inside.read_line(DEADLINE);
    assert!(again.starts_with("refused ") && again.contains("the session is revoked"), "{again}");

    let refused = daemon.layout().workload_client(&command).finish(LOAD_DEADLINE).success();
    assert!(refused.len() == 1 && refused[0].contains("it is in no session"), "{refused:?}");
}

#[test]
fn nobody_outside_gets_anything_and_it_is_recorded() {
    let daemon = Daemon::start();
    let mut asker = daemon.layout().workload_client(&spiffe_client(&["ask"]));
    let mut ask = || {
        asker.write_line("");
        asker.read_line(LOAD_DEADLINE)
    };
    assert_eq!(ask(), "PERMISSION_DENIED: it is in no session");
    let refused = daemon.wait_for_events(1, "it is recorded", |event| event.kind() == "request-refused");
    assert!(
        refused[0].text("/detail").contains("asked for an X509-SVID: it is in no session"),
        "{refused:?}"
    );
}

/// So that no session keeps the daemon from others, or fills the file of events.
#[test]
fn a_session_gets_no_more_than_it_can_use() {
    let daemon = Daemon::start();
    let began = Instant::now();
    let lines =
        daemon.run(&Envelope::of("greedy"), &spiffe_client(&["burst"])).finish(LOAD_DEADLINE).success();
    let refused = lines.iter().filter(|line| line.starts_with("RESOURCE_EXHAUSTED")).count();
    assert_eq!(lines.len(), 400);
    // More than 64 between two ticks, of which there is one a second.
    assert!(began.elapsed() > Duration::from_secs(4) || refused > 0);
    assert!(lines.iter().all(|line| line.starts_with("RESOURCE_") || line == "nothing was refused"));
    let issued = daemon.status()["counters"]["credentials_issued"].as_u64().expect("a number");
    assert_eq!(issued, (400 - refused) as u64);
}

#[test]
fn keys_survive_a_restart_and_bad_ones_keep_the_daemon_down() {
    let mut daemon = daemon_of("example.org");
    let bundle = |daemon: &Daemon| daemon.layout().outcome(&["trust-bundle"]).success();
    let before = bundle(&daemon);
    let token = text(&fetch(&daemon, "agent"), "token").to_owned();
    daemon.kill9();
    daemon.restart();
    assert_eq!(bundle(&daemon), before, "the trust domain too is that of the keys");
    let jwks = json(daemon.layout().outcome(&["trust-bundle", "--jwks"]));
    verify(daemon.layout(), &jwks, &token, &["reports"]).success();
    daemon.stop();
    assert!(!daemon.layout().workload_socket().exists());

    let dir = daemon.layout().state_dir().join("authorities");
    assert_eq!(fs::metadata(&dir).expect("it is there").permissions().mode() & 0o777, 0o700);
    let files = || fs::read_dir(&dir).expect("it is there").map(|entry| entry.expect("it is there").path());
    // One of the host's name, from when the daemon was started first, and one of the trust domain.
    let file =
        files().find(|file| fs::read_to_string(file).is_ok_and(|text| text.contains("\"example.org\"")));
    let file = file.expect("there is one");
    let whole = fs::read(&file).expect("it is there");
    let refused = |why: &str| {
        let refused = daemon.layout().outcome(&["daemon"]);
        assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains(why) && refused.stderr.contains("hint: "), "{}", refused.stderr);
        assert!(refused.stderr.contains("authorities"), "it says which: {}", refused.stderr);
    };
    fs::write(&file, &whole[..whole.len() / 2]).expect("it is ours");
    refused("torn");
    fs::write(&file, &whole).expect("it is ours");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("it is ours");
    refused("open to others");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("it is ours");
    std::os::unix::fs::chown(&file, Some(65534), None).expect("we are root");
    refused("belongs to user 65534");
    std::os::unix::fs::chown(&file, Some(0), None).expect("we are root");
    daemon.restart();
    assert_eq!(bundle(&daemon), before);
    daemon.teardown();
    assert!(!dir.exists(), "teardown takes the keys with it");
    wait_until(DEADLINE, "the socket is gone", || {
        (!daemon.layout().workload_socket().exists()).then_some(())
    });
}
