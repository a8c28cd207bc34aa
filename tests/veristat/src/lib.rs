//! What verifying a BPF program took, told by the kernel to whoever loads it.
//!
//! Loaders ask for the verifier's log only when a program was refused; what a program that was accepted took is said nowhere
//! else. This library is put before the C library (`LD_PRELOAD`) of a loader that is not changed for it, so that what is
//! measured is what that loader loads: the same instructions, after the same relocations, with the same maps and constants. It
//! stands for `syscall()`, adds a log buffer to each `BPF_PROG_LOAD` that has none, and appends `program NAME` and the log to
//! the file that `VERISTAT_LOG` names.

use std::ffi::{CStr, OsStr, c_char, c_long};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

type Syscall = unsafe extern "C" fn(c_long, c_long, c_long, c_long, c_long, c_long, c_long) -> c_long;

/// `enum bpf_cmd`, `BPF_PROG_LOAD`.
const PROG_LOAD: c_long = 5;
/// `BPF_LOG_STATS`: the figures alone.
const LOG_STATS: u32 = 4;
/// Some lines are all that is said at this level.
const LOG_BYTES: usize = 64 << 10;

// Where `union bpf_attr` of `BPF_PROG_LOAD` has what; kernel ABI.
const LOG_LEVEL: usize = 24;
const LOG_SIZE: usize = 28;
const LOG_BUF: usize = 32;
const PROG_NAME: usize = 48;
const PROG_NAME_END: usize = 64;
/// More than any kernel's `union bpf_attr`.
const ATTR_MAX: usize = 1024;

/// In place of the C library's. It is variadic there; on the platforms that we build for, such a call passes integers and
/// pointers as if it were not.
///
/// # Safety
/// As that of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    let size = usize::try_from(c).unwrap_or(0);
    if number == libc::SYS_bpf && a == PROG_LOAD && (PROG_NAME_END..=ATTR_MAX).contains(&size) {
        // SAFETY: the caller passes a `union bpf_attr` of this size, as the kernel itself would have it.
        let attr = unsafe { std::slice::from_raw_parts(b as *const u8, size) };
        if attr[LOG_SIZE..LOG_BUF] == [0; 4] && attr[PROG_NAME] != 0 {
            return load(attr);
        }
    }
    // SAFETY: what the caller passed, unchanged.
    unsafe { (real())(number, a, b, c, d, e, f) }
}

/// Loads a program as `attr` says, with a log, which is written down if the kernel takes the program.
fn load(attr: &[u8]) -> c_long {
    let mut log = vec![0u8; LOG_BYTES];
    let mut attr = attr.to_vec();
    attr[LOG_LEVEL..LOG_SIZE].copy_from_slice(&LOG_STATS.to_ne_bytes());
    attr[LOG_SIZE..LOG_BUF].copy_from_slice(&(LOG_BYTES as u32).to_ne_bytes());
    attr[LOG_BUF..LOG_BUF + 8].copy_from_slice(&(log.as_mut_ptr() as u64).to_ne_bytes());
    // SAFETY: what the caller passed, but for a log buffer that lives until the call has ended.
    let descriptor =
        unsafe { (real())(libc::SYS_bpf, PROG_LOAD, attr.as_ptr() as c_long, attr.len() as c_long, 0, 0, 0) };
    if descriptor >= 0 {
        let text = |bytes: &[u8]| {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        if let Err(error) = write_down(&text(&attr[PROG_NAME..PROG_NAME_END]), &text(&log)) {
            eprintln!("veristat: {error}");
            std::process::abort();
        }
    }
    descriptor
}

fn write_down(program: &str, log: &str) -> io::Result<()> {
    // SAFETY: the name ends with a zero byte.
    let path = unsafe { libc::getenv(c"VERISTAT_LOG".as_ptr()) };
    if path.is_null() {
        return Err(io::Error::other("VERISTAT_LOG is not set"));
    }
    // SAFETY: the C library's own text, which nobody changes while a program is being loaded.
    let path = OsStr::from_bytes(unsafe { CStr::from_ptr(path.cast::<c_char>()) }.to_bytes());
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("program {program}\n{log}\n").as_bytes())
}

/// The C library's `syscall`.
fn real() -> Syscall {
    // No lock: the standard library's locks come here, to wait.
    static REAL: AtomicUsize = AtomicUsize::new(0);
    let mut known = REAL.load(Ordering::Relaxed);
    if known == 0 {
        // SAFETY: the name ends with a zero byte.
        known = unsafe { libc::dlsym(libc::RTLD_NEXT, c"syscall".as_ptr()) } as usize;
        if known == 0 {
            // Every C library has it.
            std::process::abort();
        }
        REAL.store(known, Ordering::Relaxed);
    }
    // SAFETY: the C library's function of this name, which takes what we pass.
    unsafe { std::mem::transmute::<usize, Syscall>(known) }
}
