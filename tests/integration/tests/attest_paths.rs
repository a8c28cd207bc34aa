//! An image is the file at its path, as the host sees it, with the content that is listed.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::process::Command;

use integration::{Envelope, Scene, Tool, say, system, wrap};

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

    let memory = nix::sys::memfd::memfd_create("listed", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
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
