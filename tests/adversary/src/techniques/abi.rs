//! The same system calls under other numbers, which a filter on numbers may have forgotten.

use std::arch::asm;
use std::io;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use crate::context::{Context, target4};
use crate::sys::{self, At as _, Attempt, Stop, name};

const X32: usize = 0x4000_0000;
const I386_WRITE: usize = 4;
const I386_SOCKET: usize = 359;
const I386_CONNECT: usize = 362;

/// By the gate of 32-bit programs.
pub(crate) fn int80_udp(context: &Context) -> Attempt {
    let page = low_page()?;
    let socket =
        int80("socket by int 0x80", I386_SOCKET, [libc::AF_INET as usize, libc::SOCK_DGRAM as usize, 0])?;
    let address = name(target4());
    page.write(0, &address);
    int80("connect by int 0x80", I386_CONNECT, [socket, page.at(0), address.len()])?;
    page.write(64, context.magic());
    int80("write by int 0x80", I386_WRITE, [socket, page.at(64), context.magic.len()]).map(drop)
}

/// The family that no cgroup hook sees, by the gate that a filter on numbers may not see.
pub(crate) fn int80_packet(context: &Context) -> Attempt {
    let arguments = [libc::AF_PACKET as usize, libc::SOCK_DGRAM as usize, 0];
    let socket = int80("socket by int 0x80", I386_SOCKET, arguments)?;
    super::families::send_frame(sys::owned("socket", socket as isize)?, context)
}

/// By the numbers of the ABI with 32-bit pointers and 64-bit registers.
pub(crate) fn x32_udp(context: &Context) -> Attempt {
    let number = |number: i64| number | X32 as i64;
    let arguments = [libc::AF_INET as usize, libc::SOCK_DGRAM as usize, 0];
    // SAFETY: takes no pointer.
    let socket = unsafe { sys::syscall("socket of x32", number(libc::SYS_socket), &arguments) }?;
    let socket = sys::owned("socket of x32", socket as isize)?;
    sys::send_to(socket, context.magic(), 0, &name(target4()))
}

/// By the one number that 32-bit programs have for all calls on sockets.
pub(crate) fn int80_socketcall(context: &Context) -> Attempt {
    const SOCKETCALL: usize = 102;
    const SOCKET: usize = 1;
    const CONNECT: usize = 3;
    let page = low_page()?;
    let call = |at, number, arguments: [usize; 3]| {
        let words: Vec<u8> = arguments.iter().flat_map(|word| (*word as u32).to_ne_bytes()).collect();
        page.write(256, &words);
        int80(at, SOCKETCALL, [number, page.at(256), 0])
    };
    let socket = call("socketcall socket", SOCKET, [libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0])?;
    let address = name(target4());
    page.write(0, &address);
    call("socketcall connect", CONNECT, [socket, page.at(0), address.len()])?;
    page.write(64, context.magic());
    int80("write by int 0x80", I386_WRITE, [socket, page.at(64), context.magic.len()]).map(drop)
}

/// Memory that a 32-bit pointer reaches.
struct LowPage(usize);

impl LowPage {
    fn at(&self, offset: usize) -> usize {
        self.0 + offset
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= 4096, "it is one page");
        // SAFETY: the page is ours, can be written, and is long enough.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset) as *mut u8, bytes.len()) };
    }
}

fn low_page() -> Attempt<LowPage> {
    let len = std::num::NonZero::new(4096).expect("it is not zero");
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_32BIT;
    // SAFETY: new memory, at no particular place.
    let page = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) };
    Ok(LowPage(page.at("mmap")?.as_ptr() as usize))
}

fn int80(at: &'static str, number: usize, [first, second, third]: [usize; 3]) -> Attempt<usize> {
    let result: i64;
    // SAFETY: a system call that reads what lies at these places, if they are places. The register that the compiler keeps
    // for itself is put back.
    unsafe {
        asm!(
            "push rbx",
            "mov ebx, {first:e}",
            "int 0x80",
            "pop rbx",
            first = in(reg) first,
            inout("rax") number => result,
            in("rcx") second,
            in("rdx") third,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    let result = result as i32;
    if result < 0 {
        Err(Stop { at, error: io::Error::from_raw_os_error(-result) })
    } else {
        Ok(result as usize)
    }
}
