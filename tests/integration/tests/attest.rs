//! What a session executes is held to the list in its envelope, whatever name it goes by.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use integration::{
    Attempt, DEADLINE, Daemon, Envelope, Process, Server, Tool, attempts, say, system, unique, wrap,
};

/// A daemon, a server that every envelope here allows, and a program that is listed.
struct Scene {
    daemon: Daemon,
    server: Server,
    listed: Tool,
    magic: String,
}

impl Scene {
    fn new() -> Self {
        let daemon = Daemon::start();
        let listed = Tool::at(daemon.layout().file("listed"));
        Self { daemon, server: Server::start("tcp", "127.0.0.1"), listed, magic: unique("attest") }
    }

    /// Nothing is listed yet.
    fn envelope(&self, agent: &str, on_mismatch: &'static str) -> Envelope {
        Envelope::of(agent).allow_server("only", &self.server).exec("listed", on_mismatch)
    }

    fn spec(&self) -> String {
        format!("tcp/{}", self.server.address())
    }

    fn reaches(&self, tool: &Tool, envelope: &Envelope) -> bool {
        tool.reaches(&self.daemon, envelope, &self.magic, &self.spec())
    }

    fn tool(&self, name: &str) -> Tool {
        Tool::at(self.daemon.layout().file(name))
    }

    /// Runs a command line whose first act is an attempt; whether that succeeded.
    fn outcome(&self, command: Command) -> bool {
        let lines = Process::spawn(command).finish(DEADLINE).success();
        attempts(&lines).first().expect("one attempt").succeeded()
    }

    /// The same with the file as standard input, which is executed by that name.
    fn reaches_as_descriptor(&self, file: File, envelope: &Envelope) -> bool {
        let spec = self.spec();
        let command = ["/proc/self/fd/0", "net", &self.magic, &spec];
        let mut run = self.daemon.layout().run_command(envelope, &command);
        let output = run.stdin(file).stderr(Stdio::inherit()).output().expect("the enforcer is executable");
        let text = String::from_utf8(output.stdout).expect("it is text");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let attempts: Vec<Attempt> = attempts(&lines);
        attempts.first().expect("one attempt").succeeded()
    }

    /// The verdict of the last image that was measured, or seen, of an agent.
    fn last_verdict(&self, agent: &str) -> String {
        let seen = |event: &integration::Event| event.is_of(agent) && event.find("/image/verdict").is_some();
        let events = self.daemon.wait_for_events(1, "an image is recorded", seen);
        events.last().expect("there is one").text("/image/verdict").to_owned()
    }
}

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
    assert_eq!(scene.daemon.counter("images_unlisted"), 1, "the second was known");
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
fn a_file_is_what_its_content_is() {
    let scene = Scene::new();
    let tool = scene.tool("measured");
    let envelope = scene
        .envelope("measures", "deny-egress")
        .image_of(tool.path(), &tool.sha256())
        .exec("measured", "deny-egress");
    assert!(scene.reaches(&tool, &envelope), "control: as it was measured");
    assert!(scene.reaches(&tool, &envelope), "control: when it is known");

    // In place, and at once: the digest is not that of a moment ago.
    let append = OpenOptions::new().append(true).open(tool.path());
    append.and_then(|mut file| file.write_all(b"x")).expect("nobody executes it");
    assert!(!scene.reaches(&tool, &envelope), "it was written to");
    let length = fs::metadata(tool.path()).expect("it is there").len() - 1;
    let shorten = OpenOptions::new().write(true).open(tool.path());
    shorten.and_then(|file| file.set_len(length)).expect("nobody executes it");
    assert!(scene.reaches(&tool, &envelope), "it is what it was");

    // Another file takes its place.
    let impostor = scene.tool("impostor");
    let append = OpenOptions::new().append(true).open(impostor.path());
    append.and_then(|mut file| file.write_all(b"x")).expect("nobody executes it");
    let kept = scene.daemon.layout().file("kept");
    fs::rename(tool.path(), &kept).expect("the directory is ours");
    fs::rename(impostor.path(), tool.path()).expect("the directory is ours");
    assert!(!scene.reaches(&tool, &envelope), "another file was renamed over it");
    // The same content elsewhere is not what is listed either: its path is.
    assert!(!scene.reaches(&Tool::at(kept), &envelope), "it is under another name");
}

#[test]
fn a_file_without_a_name_is_not_listed() {
    let scene = Scene::new();
    let tool = scene.tool("gone");
    let envelope = scene.envelope("nameless", "deny-egress").image(tool.path()).image(scene.listed.path());
    let open = || File::open(tool.path()).expect("it is there");
    assert!(scene.reaches_as_descriptor(open(), &envelope), "control: by a descriptor");
    let file = open();
    fs::remove_file(tool.path()).expect("the directory is ours");
    assert!(!scene.reaches_as_descriptor(file, &envelope), "it was deleted");

    let memory = nix::sys::memfd::memfd_create("listed", nix::sys::memfd::MFdFlags::empty());
    let mut memory = File::from(memory.expect("the kernel has memfd"));
    memory.write_all(&fs::read(scene.listed.path()).expect("it is there")).expect("there is memory");
    let any = Envelope::of("any").allow_server("only", &scene.server);
    let again = memory.try_clone().expect("a descriptor is free");
    // It is open for writing, and such a file is not executed.
    let reopened = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&again)));
    let reopened = reopened.expect("it is ours");
    drop((memory, again));
    let once_more = reopened.try_clone().expect("a descriptor is free");
    assert!(scene.reaches_as_descriptor(once_more, &any), "control: it can be executed");
    assert!(!scene.reaches_as_descriptor(reopened, &envelope), "it is in no directory");
}

#[test]
fn a_script_is_listed_and_so_is_its_interpreter() {
    let scene = Scene::new();
    let file = |name| scene.daemon.layout().file(name);
    let (script, other) =
        (Tool::script(file("script"), &scene.listed), Tool::script(file("other-script"), &scene.listed));
    let envelope = scene.envelope("scripts", "deny-egress").image(script.path());
    let with_interpreter = envelope.clone().image(scene.listed.path());
    let talks = |envelope: &Envelope, script: &Tool| {
        let mut process = scene.daemon.run(envelope, &[script.text()]);
        Tool::talks(&mut process, &scene.spec())
    };
    assert!(talks(&with_interpreter, &script), "both are listed");
    assert!(talks(&with_interpreter, &script), "and asked for each time");
    assert!(!talks(&with_interpreter, &other), "the script is not");
    assert!(!talks(&envelope, &script), "the interpreter is not");
    let measured = scene.daemon.wait_for_events(1, "the script is in the record", |event| {
        event.kind() == "image-measured" && event.find("/image/script").is_some()
    });
    assert_eq!(measured[0].text("/image/script/path"), script.text());
    assert_eq!(measured[0].text("/image/script/sha256"), script.sha256());
    assert_eq!(measured[0].text("/image/path"), scene.listed.text());
}

#[test]
fn an_interpreter_that_is_a_script_is_listed_too() {
    let scene = Scene::new();
    let file = |name| scene.daemon.layout().file(name);
    // What is found by that name may be a script.
    let python = system(&["python3", "-c", "import sys; print(sys.executable)"]).trim().to_owned();
    let address = scene.server.address();
    let code = format!(
        "#!{python}
import json, socket
errno = 0
try: socket.create_connection(('{}', {}))
except OSError as error: errno = error.errno
print(json.dumps(dict(label='tcp', errno=errno)))
",
        address.ip(),
        address.port()
    );
    let [between, script] = ["between", "script"].map(|name| Tool::script(file(name), &scene.listed));
    for (tool, text) in [(&between, code), (&script, format!("#!{}\n", between.text()))] {
        fs::write(tool.path(), text).expect("it is ours");
        tool.settle();
    }
    let reaches =
        |envelope: &Envelope| scene.outcome(scene.daemon.layout().run_command(envelope, &[script.text()]));
    let two = scene.envelope("two", "deny-egress").image(script.path()).image(python.as_ref());
    assert!(reaches(&two.clone().image(between.path())), "control: all three are listed");
    assert!(!reaches(&two), "the one between is not");
}

#[test]
fn what_is_not_listed_has_nobody_do_its_work() {
    let scene = Scene::new();
    let shell = Tool::at(scene.daemon.layout().file("shell"));
    fs::copy("/bin/sh", shell.path()).expect("it is ours");
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

#[test]
fn mounts_of_ones_own_lead_nowhere() {
    let scene = Scene::new();
    let other = scene.tool("other");
    let envelope = scene.envelope("mounts", "deny-egress").image(scene.listed.path());
    let spec = scene.spec();
    let run = scene.daemon.layout().run_command(&envelope, &scene.listed.attempt(&scene.magic, &spec));
    let mount = format!("mount --bind {} {} && exec \"$@\"", other.text(), scene.listed.text());
    let inside = |first: &str| wrap(&["unshare", "-m", "sh", "-c", first, "sh"], &run);
    assert!(scene.outcome(inside("exec \"$@\"")), "control: in a mount namespace of its own");
    assert!(!scene.outcome(inside(&mount)), "another file is mounted there");
}

#[test]
fn layers_of_a_file_system_are_told_apart() {
    let scene = Scene::new();
    let directory = |name: &str| {
        let path = scene.daemon.layout().file(name);
        fs::create_dir(&path).expect("the directory is ours");
        path
    };
    let [base, lower, merged] = ["base", "lower", "merged"].map(directory);
    // Layers on a file system of their own: the directory may itself be on an overlay.
    system(&["mount", "-t", "tmpfs", "tmpfs", base.to_str().expect("it is text")]);
    let _base = Mounted(base.clone());
    let [upper, work] = ["upper", "work"].map(|name| {
        let path = base.join(name);
        fs::create_dir(&path).expect("it is ours");
        path
    });
    let [below, other] = ["tool", "other"].map(|name| Tool::at(lower.join(name)));
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let mut mount = Command::new("mount");
    mount.args(["-t", "overlay", "-o", &options, "overlay"]).arg(&merged);
    let output = mount.output().expect("there is `mount`");
    if !output.status.success() {
        return say(&format!("skipped: no overlay: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let _merged = Mounted(merged.clone());
    let [tool, unlisted] = [below, other].map(|tool| {
        let name = tool.path().file_name().expect("it has a name").to_owned();
        Tool::existing(merged.join(name))
    });
    let envelope = scene.envelope("layers", "deny-egress").image_of(tool.path(), &tool.sha256());
    for when in ["the slow way", "the fast way, if there is one"] {
        assert!(scene.reaches(&tool, &envelope), "{when}: {}", scene.last_verdict("layers"));
        assert!(!scene.reaches(&unlisted, &envelope), "{when}");
    }
    // It is copied up, and another file for that.
    let append = OpenOptions::new().append(true).open(tool.path());
    append.and_then(|mut file| file.write_all(b"x")).expect("nobody executes it");
    assert!(!scene.reaches(&tool, &envelope), "it was written to");
}

/// Unmounts on drop.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
