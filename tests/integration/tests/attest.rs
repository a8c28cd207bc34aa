//! What a session executes is held to the list in its envelope.

use std::os::unix::process::ExitStatusExt as _;

use integration::{DEADLINE, Envelope, Process, Scene, Tool, notes_all_writes, say, system};

#[test]
fn what_is_not_listed_is_refused_everything() {
    let scene = Scene::new();
    let other = scene.tool("other");
    let envelope = scene.envelope("lists", "deny-egress").image(scene.listed.path());
    let any = Envelope::of("any").allow_server("only", &scene.server);
    assert!(scene.reaches(&other, &any), "control: without a list it reaches the far side");

    assert!(scene.reaches(&scene.listed, &envelope), "what is listed connects as its first act");
    for when in ["before it was measured", "when it is known"] {
        assert!(!scene.reaches(&other, &envelope), "{when}");
    }
    let refused = scene.daemon.wait_for_events(2, "both are recorded", |event| {
        event.is_of("lists") && event.is_deny() && event.text("/reason") == "image-not-listed"
    });
    assert!(refused.iter().all(integration::Event::is_refused));
    let measured = scene.daemon.wait_for_events(1, "it was measured", |event| {
        event.is_of("lists") && event.kind() == "image-measured" && event.text("/image/verdict") == "unlisted"
    });
    assert_eq!(measured[0].text("/image/sha256"), other.sha256());
    assert_eq!(measured[0].text("/image/path"), other.text());
    let known = |event: &integration::Event| {
        event.is_of("lists") && event.kind() == "exec" && event.text("/image/verdict") == "listed"
    };
    // Measured when the session began, unless it was executed before that was done.
    if let Some(exec) = scene.daemon.events().iter().find(|event| known(event)) {
        assert_eq!(exec.text("/image/sha256"), scene.listed.sha256());
    }
    assert!(scene.reaches(&other, &any), "control: and it still does");

    // A loader is an image like any other.
    let Some(loader) = measured[0].find("/image/loader/path") else {
        return say("skipped: `ld.so PROGRAM`: the probe is linked statically");
    };
    let loader = loader.as_str().expect("a path is text");
    let spec = scene.spec();
    let by_loader = [loader, scene.listed.text(), "net", &scene.magic, &spec];
    assert!(scene.outcome(scene.daemon.layout().run_command(&any, &by_loader)), "control: it loads");
    assert!(!scene.outcome(scene.daemon.layout().run_command(&envelope, &by_loader)), "and is not listed");
}

#[test]
fn kill_comes_before_the_first_instruction() {
    let scene = Scene::new();
    let other = scene.tool("other");
    let envelope = scene.envelope("kills", "kill").image(scene.listed.path());
    let command =
        |tool: &Tool| scene.daemon.layout().run_command(&envelope, &tool.attempt("x", "socket/tcp4"));
    let listed = Process::spawn(command(&scene.listed)).finish(DEADLINE);
    assert_eq!(listed.success().len(), 1, "control: what is listed writes a line");
    for when in ["before it was measured", "when it is known"] {
        let ended = Process::spawn(command(&other)).finish(DEADLINE);
        assert_eq!(ended.status.signal(), Some(libc::SIGKILL), "{when}: {:?}", ended.status);
        assert!(ended.stdout.is_empty(), "{when}: it has run: {:?}", ended.stdout);
    }
    let known = u64::from(notes_all_writes(other.path()));
    assert_eq!(scene.daemon.counter("images_unlisted"), known, "the second was known, where it can be");
}

#[test]
fn audit_records_and_delays_nothing() {
    let scene = Scene::new();
    let other = scene.tool("other");
    let envelope = scene.envelope("audits", "audit").image(scene.listed.path());
    assert!(scene.reaches(&other, &envelope));
    let measured = scene.daemon.wait_for_events(1, "it is recorded", |event| {
        event.is_of("audits") && event.kind() == "image-measured"
    });
    // It may have ended before anybody could look.
    let verdict = measured[0].text("/image/verdict");
    assert!(matches!(verdict, "unlisted" | "unmeasured"), "{verdict}");
    assert_eq!(scene.daemon.counter("images_waited"), 0);
}

#[test]
fn what_is_not_listed_has_nobody_do_its_work() {
    let scene = Scene::new();
    let shell = Tool::at(scene.daemon.layout().file("shell"));
    system(&["cp", "/bin/sh", shell.text()]);
    shell.settle();
    let spec = scene.spec();
    let words = format!("{} net {} {spec}", scene.listed.text(), scene.magic);
    let envelope = scene.envelope("under", "deny-egress").image(scene.listed.path());
    let with_shell = envelope.clone().image(shell.path());
    // In its place, and as a child.
    for words in [format!("exec {words}"), format!("{words}; true")] {
        let run = |envelope| scene.daemon.layout().run_command(envelope, &[shell.text(), "-c", &words]);
        assert!(scene.outcome(run(&with_shell)), "control: the shell is listed");
        assert!(!scene.outcome(run(&envelope)), "{words}: it is not, and its program is");
    }
    scene.daemon.wait_for_events(2, "they are recorded", |event| {
        event.is_of("under") && event.find("/image/verdict").is_some_and(|it| it == "under-unlisted")
    });
}
