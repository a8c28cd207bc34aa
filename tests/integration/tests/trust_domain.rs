//! The trust domain is the one that was in use last, whichever authorities are the newer.

use std::fs;

use integration::Daemon;

fn trust_domain(daemon: &Daemon) -> String {
    daemon.status()["daemon"]["trust_domain"].as_str().expect("there is one").to_owned()
}

#[test]
fn the_trust_domain_in_use_outlives_the_daemon() {
    let mut daemon = Daemon::start();
    let first = trust_domain(&daemon);
    let domains = ["one.example", "two.example", "one.example", &first];
    for domain in domains {
        daemon.stop();
        daemon.restart_with(&["--trust-domain", domain]);
        assert_eq!(trust_domain(&daemon), domain, "control");
        // Its authority is the newest one, or was made in the same second as another, or is the oldest one.
        daemon.kill9();
        daemon.restart_with(&[]);
        assert_eq!(trust_domain(&daemon), domain);
    }
    daemon.stop();

    let file = daemon.layout().state_dir().join("authorities/trust-domain");
    let whole = fs::read(&file).expect("it is there");
    fs::write(&file, &whole[..whole.len() - 1]).expect("it is ours");
    let refused = daemon.layout().outcome(&["daemon"]);
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains(&file.display().to_string()), "{}", refused.stderr);
    fs::write(&file, &whole).expect("it is ours");
    daemon.restart_with(&[]);
    assert_eq!(trust_domain(&daemon), first);
}
