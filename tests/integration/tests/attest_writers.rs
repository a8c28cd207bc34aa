//! What somebody can write to without the file's times saying so.

use std::fs::{self, File, OpenOptions};
use std::num::NonZero;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use integration::{DEADLINE, Envelope, Scene, Tool, say, sha256, system, wait_until, write_elsewhere};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Changes the last byte of a file through a map that it was read through before.
fn change_through_a_map(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("nobody executes it");
    let len = usize::try_from(file.metadata().expect("it is open").len()).expect("it fits");
    let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
    let size = NonZero::new(len).expect("it is not empty");
    // SAFETY: the kernel chooses where.
    let map = unsafe { mmap(None, size, protection, flags, &file, 0) }.expect("there is room");
    // SAFETY: the last byte of what was mapped.
    let last = unsafe { map.cast::<u8>().add(len - 1) };
    // SAFETY: as above; volatile, because both have to happen.
    let was = unsafe { last.read_volatile() };
    // SAFETY: as above.
    unsafe { last.write_volatile(!was) };
    // SAFETY: what was mapped, and nothing refers to it any more.
    unsafe { munmap(map, len) }.expect("it is mapped");
}

#[test]
fn a_change_that_gives_a_file_no_other_time_is_seen() {
    let scene = Scene::new();
    let dir = scene.daemon.layout().file("memory");
    fs::create_dir(&dir).expect("the directory is ours");
    system(&["mount", "-t", "tmpfs", "tmpfs", dir.to_str().expect("it is text")]);
    let _mounted = Mounted(&dir);
    let tool = Tool::at(dir.join("tool"));
    let envelope = scene
        .envelope("memory", "deny-egress")
        .image_of(tool.path(), &tool.sha256())
        .exec("measured", "deny-egress");
    for when in ["first", "again"] {
        assert!(scene.reaches(&tool, &envelope), "control, {when}: {}", scene.last_verdict("memory"));
    }
    let times = || {
        let metadata = fs::metadata(tool.path()).expect("it is there");
        (metadata.ctime(), metadata.ctime_nsec(), metadata.mtime(), metadata.mtime_nsec())
    };
    let before = times();
    change_through_a_map(tool.path());
    if times() != before {
        say("this kernel's tmpfs gave the file another time: that case was not tried");
    }
    assert!(!scene.reaches(&tool, &envelope), "its content is another");
    change_through_a_map(tool.path());
    assert!(scene.reaches(&tool, &envelope), "control: it is what it was");
}

/// Also where the kernel keeps nobody from executing such a file, or the file is not executed.
#[test]
fn what_somebody_can_write_to_is_not_measured() {
    let scene = Scene::new();
    let prompt = scene.daemon.layout().file("prompt");
    write_elsewhere(&prompt, "be kind\n");
    let envelope = Envelope::of("writers").allow_server("only", &scene.server).exec("any", "deny-egress");
    let envelope = envelope.file_of(&prompt, &sha256(&prompt));
    let spec = scene.spec();
    let run = || scene.daemon.run(&envelope, &scene.listed.attempt(&scene.magic, &spec)).finish(DEADLINE);
    run().success();
    let writer = OpenOptions::new().append(true).open(&prompt).expect("it is ours");
    let refused = run();
    assert_eq!(refused.status.code(), Some(1), "somebody has it open: {refused:?}");
    assert!(refused.stderr.contains("to write to it"), "{}", refused.stderr);
    drop(writer);
    let _reader = File::open(&prompt).expect("it is ours");
    // A child that another test is just making has it for a moment longer.
    wait_until(DEADLINE, "nobody has it", || run().status.success().then_some(()));
}

/// Unmounts on drop.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
