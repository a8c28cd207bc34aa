//! A daemon with trust keys accepts what they signed, and nothing older than what it accepted before. What it refuses
//! changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use integration::{Conversation, DEADLINE, Daemon, Envelope, Finished, Pair, Process, unique};

/// A daemon that trusts one key, and the key.
struct Signed {
    daemon: Daemon,
    key: PathBuf,
    public: String,
}

impl Signed {
    fn start() -> Self {
        let mut daemon = Daemon::start();
        assert_eq!(daemon.status()["trust_keys"], serde_json::json!([]), "nobody has to sign");
        let key = make_key(&daemon);
        let public = format!("{}.pub", key.display());
        daemon.stop();
        let mut signed = Self { daemon, key, public };
        signed.restart();
        signed
    }

    fn restart(&mut self) {
        self.daemon.restart_with(&["--trust-key", &self.public]);
        assert_eq!(self.daemon.status()["trust_keys"].as_array().map(Vec::len), Some(1));
    }

    /// An envelope in a file, signed.
    fn signed(&self, envelope: &Envelope) -> PathBuf {
        let file = self.daemon.layout().write_envelope(envelope);
        self.sign(&self.key, &file);
        file
    }

    fn sign(&self, key: &Path, file: &Path) {
        let [key, file] = [key, file].map(|path| path.display().to_string());
        self.daemon.layout().outcome(&["sign", "--key", &key, &file]).success();
    }

    fn apply(&self, file: &Path) -> Finished {
        self.daemon.layout().outcome(&["apply", &file.display().to_string()])
    }

    fn run<S: AsRef<str>>(&self, file: &Path, command: &[S]) -> Process {
        let mut run = self.daemon.layout().command(&["run", "--envelope"]);
        run.arg(file).arg("--").args(command.iter().map(AsRef::as_ref));
        Process::spawn(run)
    }

    /// Neither `apply` nor `run` takes the envelope; both say why.
    #[track_caller]
    fn expect_refused(&self, file: &Path, exit: i32, why: &str) {
        let trace = self.daemon.layout().file(&unique("trace"));
        let run = self.run(file, &["touch", &trace.display().to_string()]).finish(DEADLINE);
        for outcome in [self.apply(file), run] {
            assert_eq!(outcome.status.code(), Some(exit), "{why}: {}", outcome.stderr);
            assert!(outcome.stderr.contains(why), "{why}: {}", outcome.stderr);
        }
        assert!(!trace.exists(), "{why}: the command was not executed");
    }

    fn revision_file(&self, agent: &str) -> PathBuf {
        self.daemon.layout().state_dir().join("revisions").join(format!("{agent}.json"))
    }
}

fn make_key(daemon: &Daemon) -> PathBuf {
    let key = daemon.layout().file(&unique("key"));
    daemon.layout().outcome(&["keygen", "--out", &key.display().to_string()]).success();
    key
}

#[test]
fn what_is_unsigned_altered_or_older_is_refused_and_changes_nothing() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let signed = Signed::start();
    let daemon = &signed.daemon;
    let narrow = |revision| Envelope::of("signed").revision(revision).allow_server("only", &pair.allowed);
    let wide = |revision| narrow(revision).allow_server("more", &pair.refused);

    let first = signed.signed(&narrow(1));
    let process = signed.run(&first, &Conversation::command(&unique("signed")));
    let mut inside = Conversation::over(process);
    let digest = || daemon.session("signed").expect("it is running")["envelope_digest"].clone();
    let in_force = digest();
    let mut expect_unchanged = |what: &str| {
        assert!(inside.attempt(&allowed), "{what}");
        assert!(!inside.attempt(&refused), "{what}");
        assert_eq!(digest(), in_force, "{what}");
        let list = daemon.query("ps");
        assert_eq!(list["sessions"].as_array().map(Vec::len), Some(1), "{what}: {list}");
    };
    expect_unchanged("control: accepted, and it is held to it");

    let layout = daemon.layout();
    let unsigned = layout.write_envelope(wide(2));
    signed.expect_refused(&unsigned, 1, "the envelope is not signed");
    expect_unchanged("unsigned");

    let altered = signed.signed(&narrow(2));
    fs::write(&altered, wide(2).to_string()).expect("the directory is ours");
    signed.expect_refused(&altered, 1, "not made by a trusted key over exactly this text");
    expect_unchanged("altered");
    fs::write(&altered, format!("{}\n", narrow(2))).expect("the directory is ours");
    signed.expect_refused(&altered, 1, "not made by a trusted key over exactly this text");
    expect_unchanged("altered by a byte that means nothing");

    let strange = layout.write_envelope(wide(2));
    signed.sign(&make_key(daemon), &strange);
    signed.expect_refused(&strange, 1, "not made by a trusted key");
    expect_unchanged("signed by somebody else");

    let signature = PathBuf::from(format!("{}.sig", strange.display()));
    for (text, why) in [("MEUC".repeat(10_000), "longer than 512 bytes"), ("%".into(), "is not base64")] {
        fs::write(&signature, text).expect("the directory is ours");
        signed.expect_refused(&strange, 1, why);
        expect_unchanged(why);
    }

    // Control: with a good signature each of these is accepted.
    let second = signed.signed(&wide(2));
    signed.apply(&second).success();
    assert!(inside.attempt(&allowed) && inside.attempt(&refused), "the new one is in force");
    let in_force = digest();
    signed.expect_refused(&first, 1, "revision 1 of the envelope, and revision 2 was accepted before");
    signed.expect_refused(&signed.signed(&narrow(2)), 1, "another text was accepted as revision 2 before");
    assert_eq!(digest(), in_force, "older, or of the same revision");
    assert!(inside.attempt(&refused));
    signed.run(&second, &["true"]).finish(DEADLINE).success();
    signed.run(&signed.signed(&Envelope::of("other")), &["true"]).finish(DEADLINE).success();
    inside.end();

    let events = daemon.events();
    let details = |kind: &str| {
        let of_kind = events.iter().filter(|event| event.kind() == kind);
        of_kind.map(|event| event.text("/detail").to_owned()).collect::<Vec<_>>()
    };
    let accepted = details("envelope-accepted");
    assert_eq!(accepted.len(), 3, "each revision once: {accepted:?}");
    assert!(accepted.iter().all(|detail| detail.contains("signed by key")), "{accepted:?}");
    let refusals = details("request-refused").join("\n");
    for code in ["unsigned", "bad-signature", "rolled-back", "revision-reused"] {
        assert!(refusals.contains(&format!("brought an envelope: {code}")), "{code}: {refusals}");
    }
}

#[test]
fn what_was_accepted_is_remembered_whatever_becomes_of_the_daemon() {
    let pair = Pair::v4("tcp");
    let [allowed, refused] = pair.arguments().map(|address| format!("tcp/{address}"));
    let mut signed = Signed::start();
    let of =
        |agent: &str, revision| Envelope::of(agent).revision(revision).allow_server("only", &pair.allowed);
    let older = signed.signed(&of("memory", 4));
    let process = signed.run(&signed.signed(&of("memory", 5)), &Conversation::command(&unique("memory")));
    let mut inside = Conversation::over(process);
    let file = signed.revision_file("memory");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().expect("it has one")), 0o700);

    signed.daemon.kill9();
    signed.restart();
    assert!(inside.attempt(&allowed) && !inside.attempt(&refused), "a session that runs goes on");
    assert_eq!(signed.daemon.session("memory").expect("it is running")["state"], "active");
    signed.expect_refused(&older, 1, "revision 5 was accepted before");

    // A file that cannot be read is not the same as none.
    let whole = fs::read(&file).expect("it is there");
    let newer = signed.signed(&of("memory", 6));
    for broken in [&whole[..whole.len() / 2], b"", b"{}"] {
        fs::write(&file, broken).expect("we are root");
        signed.expect_refused(&newer, 2, "memory.json` is not a revision file");
        signed.expect_refused(&older, 2, "memory.json` is not a revision file");
        assert!(inside.attempt(&allowed) && !inside.attempt(&refused));
    }
    let other = signed.signed(&of("bystander", 1));
    signed.run(&other, &["true"]).finish(DEADLINE).success();
    fs::write(&file, &whole).expect("we are root");

    // What cannot be written down does not take effect.
    let in_the_way = file.with_extension("tmp");
    fs::create_dir(&in_the_way).expect("we are root");
    let before = signed.daemon.session("memory").expect("it is running")["envelope_digest"].clone();
    signed.expect_refused(&newer, 2, "memory.json");
    assert_eq!(signed.daemon.session("memory").expect("it is running")["envelope_digest"], before);
    fs::remove_dir(&in_the_way).expect("it is empty");
    signed.apply(&newer).success();
    inside.end();

    // Whoever may operate the daemon may tear down; that does not bring old envelopes back either.
    signed.daemon.teardown();
    signed.restart();
    assert_eq!(signed.daemon.status()["daemon"]["start"], "fresh");
    signed.expect_refused(&older, 1, "revision 6 was accepted before");
    signed.run(&newer, &["true"]).finish(DEADLINE).success();
}
