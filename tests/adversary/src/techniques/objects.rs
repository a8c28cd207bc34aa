//! The enforcer's own objects in the kernel. Only what belongs to the daemon under test is touched: its ids and its pins are
//! what the attempt is told.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::context::{Context, TARGET4};
use crate::sys::{self, At as _, Attempt};
use crate::techniques::inet;

const MAP_DELETE_ELEMENT: usize = 3;
const MAP_GET_NEXT_KEY: usize = 4;
const PROG_LOAD: usize = 5;
const OBJ_GET: usize = 7;
const MAP_FD_BY_ID: usize = 14;
const LINK_CREATE: usize = 28;
const LINK_FD_BY_ID: usize = 30;
const LINK_DETACH: usize = 34;

/// By number, which needs no pin.
pub(crate) fn detach_links(context: &Context) -> Attempt {
    let mut detached = 0;
    for id in &context.links {
        let link = by_id(LINK_FD_BY_ID, *id)?;
        // Those of tracing programs cannot be detached.
        detached += usize::from(bpf("detach a link", LINK_DETACH, &mut words(&[fd_word(&link)])).is_ok());
    }
    if detached > 0 {
        Ok(())
    } else {
        Err(std::io::Error::from_raw_os_error(libc::EPERM)).at("detach a link")
    }
}

/// By the names of the pins.
pub(crate) fn detach_pinned_links(context: &Context) -> Attempt {
    let (mut detached, mut refused) = (false, None);
    for pin in files_below(&context.pins)? {
        let object = by_pin(&pin)?;
        match bpf("detach a link", LINK_DETACH, &mut words(&[fd_word(&object)])) {
            Ok(_) => detached = true,
            // Maps are among them, which are no links.
            Err(stop) => refused = Some(stop),
        }
    }
    if detached { Ok(()) } else { refused.map_or(Ok(()), Err) }
}

/// Takes every tag off: nobody is in a session.
pub(crate) fn delete_tags(context: &Context) -> Attempt {
    let maps = context.maps.iter().map(|id| by_id(MAP_FD_BY_ID, *id)).collect::<Attempt<Vec<_>>>()?;
    delete_all(&maps)
}

pub(crate) fn delete_tags_by_pin(context: &Context) -> Attempt {
    let pins = files_below(&context.pins)?;
    delete_all(&pins.iter().map(|pin| by_pin(pin)).collect::<Attempt<Vec<_>>>()?)
}

/// The keys of all maps that let go of them. Where an object is not such a map, the kernel says so.
fn delete_all(maps: &[OwnedFd]) -> Attempt {
    let mut deleted = false;
    for map in maps {
        let mut key = [0_u8; 64];
        let mut first = words(&[fd_word(map), 0, key.as_mut_ptr() as u64]);
        let mut delete = words(&[fd_word(map), key.as_ptr() as u64]);
        while bpf("read a map", MAP_GET_NEXT_KEY, &mut first).is_ok()
            && bpf("delete from a map", MAP_DELETE_ELEMENT, &mut delete).is_ok()
        {
            deleted = true;
        }
    }
    if deleted { Ok(()) } else { Err(std::io::Error::from_raw_os_error(libc::EPERM)).at("delete from a map") }
}

pub(crate) fn unlink_pins(context: &Context) -> Attempt {
    files_below(&context.pins)?.iter().try_for_each(|pin| fs::remove_file(pin).at("unlink"))
}

/// Where the next daemon does not find them.
pub(crate) fn rename_pins(context: &Context) -> Attempt {
    fs::rename(&context.pins, context.pins.with_file_name("elsewhere")).at("rename")
}

pub(crate) fn unmount_pins(context: &Context) -> Attempt {
    umount2(mount_point(context), MntFlags::MNT_DETACH).at("umount")
}

pub(crate) fn mount_over_pins(context: &Context) -> Attempt {
    mount(Some("tmpfs"), mount_point(context), Some("tmpfs"), MsFlags::empty(), None::<&str>).at("mount")
}

/// A packet that the kernel takes for one that a device has received, by a test of a program.
pub(crate) fn live_frames(context: &Context) -> Attempt {
    const XDP: u64 = 6;
    const PROG_TEST_RUN: usize = 10;
    const LIVE_FRAMES: u64 = 1 << 1;
    // return XDP_PASS
    let program = [instruction(0xb7, 0, 0, 0, 2), instruction(0x95, 0, 0, 0, 0)];
    let program = load(&program, XDP, 0)?;
    let frame = super::families::frame(context);
    // Program, size and place of the packet, how often; then, behind what is not used, flags.
    let mut test = [0; 16];
    test[0] = fd_word(&program);
    test[1] = frame.len() as u64;
    test[2] = frame.as_ptr() as u64;
    test[4] = 1;
    test[8] = LIVE_FRAMES;
    bpf("test a program", PROG_TEST_RUN, &mut test).map(drop)
}

/// A program after ours, which takes its refusal back. For the target's address alone: everybody's connections pass it.
pub(crate) fn override_verdict(context: &Context) -> Attempt {
    const CGROUP_SOCK_ADDR: u64 = 18;
    const CONNECT4: u64 = 10;
    const SET_RETVAL: i32 = 187;
    let target = i32::from_ne_bytes(TARGET4.octets());
    let program = [
        // r2 = the address; unless it is the target, jump over: r1 = 0, call.
        instruction(0x61, 2, 1, 4, 0),
        instruction(0x56, 2, 0, 2, target),
        instruction(0xb7, 1, 0, 0, 0),
        instruction(0x85, 0, 0, 0, SET_RETVAL),
        // return 1
        instruction(0xb7, 0, 0, 0, 1),
        instruction(0x95, 0, 0, 0, 0),
    ];
    let program = load(&program, CGROUP_SOCK_ADDR, CONNECT4)?;
    let root =
        fs::File::open(context.cgroup.parent().expect("it is below the root")).at("open the cgroup")?;
    let mut create = words(&[fd_word(&program) | (root.as_raw_fd() as u64) << 32, CONNECT4]);
    let link = bpf("attach a program", LINK_CREATE, &mut create)?;
    let _attached = sys::owned("attach a program", link as isize)?;
    inet::tcp4(context)
}

fn load(program: &[u64], kind: u64, attach_to: u64) -> Attempt<OwnedFd> {
    let licence = c"GPL";
    let mut load = [0; 16];
    load[0] = kind | (program.len() as u64) << 32;
    load[1] = program.as_ptr() as u64;
    load[2] = licence.as_ptr() as u64;
    // What the program is to be attached to is the word at 68 bytes.
    load[8] = attach_to << 32;
    sys::owned("load a program", bpf("load a program", PROG_LOAD, &mut load)? as isize)
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, from << 4 | to, low, high, a, b, c, d])
}

/// The object behind a pin.
pub(crate) fn by_pin(pin: &Path) -> Attempt<OwnedFd> {
    let name = nul_terminated(pin);
    sys::owned("open a pin", bpf("open a pin", OBJ_GET, &mut words(&[name.as_ptr() as u64]))? as isize)
}

/// A link by its number.
pub(crate) fn link(id: u64) -> Attempt<OwnedFd> {
    by_id(LINK_FD_BY_ID, id)
}

fn by_id(command: usize, id: u64) -> Attempt<OwnedFd> {
    sys::owned("find an object", bpf("find an object", command, &mut words(&[id]))? as isize)
}

fn fd_word(fd: &OwnedFd) -> u64 {
    fd.as_raw_fd() as u64
}

fn words(first: &[u64]) -> [u64; 16] {
    let mut all = [0; 16];
    all[..first.len()].copy_from_slice(first);
    all
}

fn bpf(at: &'static str, command: usize, attributes: &mut [u64; 16]) -> Attempt<usize> {
    let arguments = [command, attributes.as_mut_ptr() as usize, size_of_val(attributes)];
    // SAFETY: the attributes are longer than the command needs, with zeros behind, and what they point to outlives the call.
    unsafe { sys::syscall(at, libc::SYS_bpf, &arguments) }
}

fn nul_terminated(path: &Path) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::CString::new(path.as_os_str().as_bytes()).expect("a path has no zero in it")
}

fn mount_point(context: &Context) -> &Path {
    context.pins.parent().expect("the pins are in a directory of the mount")
}

pub(crate) fn files_below(directory: &Path) -> Attempt<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).at("list the pins")? {
        let path = entry.at("list the pins")?.path();
        if path.is_dir() { files.extend(files_below(&path)?) } else { files.push(path) }
    }
    Ok(files)
}
